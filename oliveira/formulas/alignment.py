"""What the model is pulled towards: PPO's objective and CLIP's contrast."""

from __future__ import annotations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array, log_softmax, sigmoid, softmax


def ppo_objective(ratio: float, advantage: float, eps: float = 0.2) -> float:
    return min(ratio * advantage, float(np.clip(ratio, 1 - eps, 1 + eps)) * advantage)


@formula(
    "ppo",
    "Proximal policy optimisation",
    Seed(
        "000",
        "2. Perda PPO (Proximal Policy Optimization)",
        r"L(\theta) = \mathbb{E}\left[\min(r(\theta)\hat{A}, \text{clip}(r(\theta), 1 - \epsilon, 1 + "
        r"\epsilon)\hat{A})\right] \\"
        "\n"
        r"\text{onde } r(\theta) = \frac{\pi_\theta(a|s)}{\pi_{\text{old}}(a|s)}",
    ),
    verdict="wrong",
    published=r"\text{loss} = -\mathbb{E}\left[\min(r\hat A, \text{clip}(r, 1-\epsilon, 1+\epsilon)\hat "
    r"A)\right] + c_1 (V_\theta - V^{targ})^2 - c_2\, H(\pi_\theta)",
    source="Schulman et al. 2017, arXiv:1707.06347, eq. 7 and 9",
    remarks="Headed 'Perda' (loss), but it is an objective to maximise: descending it makes good actions "
    "rarer. The loss is its negative, with value error and entropy beside it; in RLHF also a KL guard "
    "against the starting model.",
    variants={"paper": "−objective, with value and entropy terms", "seed": "the objective, to be maximised"},
    default="paper",
    units="r without unit, Â in reward (normalised: without unit), ε about 0.2",
    where="later: A12",
    unsafe=("seed",),
)
def check_ppo(check: Check) -> None:
    def descend(sign: float, steps: int = 50) -> float:
        """π(good) of a two-armed bandit, advantages ±1, after descending sign · objective from ½ each."""
        logit = 0.0

        def value(x: float) -> float:
            good = float(sigmoid(x))
            return sign * 0.5 * (ppo_objective(good / 0.5, 1.0) + ppo_objective((1 - good) / 0.5, -1.0))

        for _ in range(steps):
            logit -= 0.05 * (value(logit + 1e-5) - value(logit - 1e-5)) / 2e-5
        return float(sigmoid(logit))

    literal, published = descend(1.0), descend(-1.0)
    check.figure("π(good action), from 0.5: seed's L descended as a loss, its negative", [literal, published])
    check.claim(
        "descending the seed document's L makes the good action rarer, descending −L makes it likelier",
        literal < 0.49 and published > 0.51,
    )

    def slope(ratio: float, advantage: float) -> float:
        return (ppo_objective(ratio + 1e-6, advantage) - ppo_objective(ratio - 1e-6, advantage)) / 2e-6

    table = [slope(1.5, 1.0), slope(0.5, 1.0), slope(1.5, -1.0), slope(0.5, -1.0)]
    check.figure("dL/dr at (r, Â) = (1.5, 1), (0.5, 1), (1.5, −1), (0.5, −1), ε = 0.2", table)
    check.claim(
        "the clip stops the two moves that went far enough, and only those",
        np.allclose(table, [0, 1, -1, 0], atol=1e-6),
    )
    check.claim(
        "the objective never exceeds the unclipped one",
        all(ppo_objective(r, a) <= r * a + 1e-12 for r in np.linspace(0.1, 3, 30) for a in (-2.0, 0.5)),
    )


def clip_seed(similarity: Array) -> float:
    """The seed document's L with the means over matched pairs: rows are texts, columns images, no temperature."""
    rows, columns = log_softmax(similarity, 1), log_softmax(similarity, 0)
    return float(0.5 * (np.diag(rows).mean() + np.diag(columns).mean()))


@formula(
    "clip",
    "CLIP contrast",
    Seed(
        "000",
        "3. Contraste Multimodal (CLIP)",
        r"L = \frac{1}{2}\left[\mathbb{E}\left[\log\left(\frac{\exp(\text{sim}(t, i))}{\sum "
        r"\exp(\text{sim}(t, i'))}\right)\right] + \mathbb{E}\left[\log\left(\frac{\exp(\text{sim}(t, "
        r"i))}{\sum \exp(\text{sim}(t', i))}\right)\right]\right]",
    ),
    verdict="wrong",
    published=r"L = -\frac{1}{2N}\sum_{n=1}^N\left[\log\frac{e^{s_{nn}/\tau}}{\sum_m e^{s_{nm}/\tau}} + "
    r"\log\frac{e^{s_{nn}/\tau}}{\sum_m e^{s_{mn}/\tau}}\right],\quad \tau \text{ learnt}",
    source="Radford et al. 2021, arXiv:2103.00020, figure 3",
    remarks="The minus sign is missing: minimised as written it drives texts away from their own images. "
    "The temperature is missing too: cosines lie in [−1, 1], so that with N pairs and τ = 1 the loss "
    "cannot fall below log(1 + (N−1)e⁻²). The sums run over the batch, i' and t' included i and t.",
    variants={"paper": "minus sign, learnt temperature", "seed": "as written, to be maximised"},
    default="paper",
    units="s cosine similarity in [−1, 1], τ without unit (CLIP starts at 0.07, its floor is 0.01), L in nats",
    where="later: A13",
    unsafe=("seed",),
)
def check_clip(check: Check) -> None:
    aligned, shifted = np.eye(8) * 2 - 1, np.roll(np.eye(8) * 2 - 1, 1, axis=1)
    check.figure("seed's L: pairs aligned, pairs exchanged", [clip_seed(aligned), clip_seed(shifted)])
    check.claim("minimising the seed document's L prefers exchanged pairs", clip_seed(shifted) < clip_seed(aligned) < 0)
    check.claim("its negative prefers aligned ones", -clip_seed(aligned) < -clip_seed(shifted))
    s = np.random.default_rng(0).uniform(-1, 1, (8, 8))
    up = s.copy()
    up[3, 3] += 1e-4
    check.claim("a more similar pair raises the seed document's L", clip_seed(up) > clip_seed(s))
    n = 256
    floors = [float(np.log1p((n - 1) * np.exp(-2 / tau))) for tau in (1.0, 0.07)]
    check.figure("lowest reachable loss of 256 pairs at τ = 1 and τ = 0.07, nats", floors)
    check.claim(
        "with 256 pairs and no temperature the loss stays above 3.5 nats",
        floors[0] > 3.5 and floors[1] < 1e-9,
    )
    paper = -0.5 * (np.log(np.diag(softmax(s / 0.07, 1))).mean() + np.log(np.diag(softmax(s / 0.07, 0))).mean())
    check.claim("the published form is −seed on s/τ", abs(paper + clip_seed(s / 0.07)) < 1e-12)
