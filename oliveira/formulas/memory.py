"""Memory formulas of seed document 000: relevance, compression, levels, gate, episodic retention."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array, kl, sigmoid


@formula(
    "relevance",
    "Dynamic relevance of a memory",
    Seed(
        "000",
        "1. Relevância de Memória Dinâmica",
        r"R(x) = \sigma\left(\frac{1}{T} \int_0^t \|\nabla_x L\|^2 dt\right)",
    ),
    verdict="wrong",
    published=r"R(x) = \sigma\left(\frac{g_x - \mu}{s}\right),\quad g_x = \text{moving average of } "
    r"\|\nabla_x L\|^2",
    source="gradient norm as importance: Paul et al. 2021 (GraNd), arXiv:2107.07075; the z-score is this project's",
    remarks="A square is never negative and σ(0) = ½: R lies in [½, 1), nothing is ever irrelevant. The "
    "upper limit t and the 1/T do not match, and the argument of σ carries the unit of loss²/x²: in other "
    "units of x everything is relevant or nothing is.",
    variants={"normalised": "moving average, z-scored", "seed": "as written, R ≥ ½"},
    default="normalised",
    units="‖∇ₓL‖² in loss² a x²; R without unit, in (0, 1)",
    where="later: A15",
)
def check_relevance(check: Check) -> None:
    norms = np.random.default_rng(0).lognormal(-3, 1, size=(200, 50))  # 200 memories, 50 moments
    seed = sigmoid(norms.mean(axis=1))
    check.figure("seed: least and greatest R of 200 memories", [seed.min(), seed.max()])
    check.claim("no R is below ½", seed.min() >= 0.5 and sigmoid(0.0) == 0.5)
    scaled = sigmoid(100**2 * norms.mean(axis=1))
    check.figure("seed, x in hundredths: least R", scaled.min())
    check.claim("with x in hundredths every R is above 0.99", scaled.min() > 0.99)

    def normalised(n: Array) -> Array:
        g = n.mean(axis=1)
        return sigmoid((g - g.mean()) / g.std())

    published = normalised(norms)
    check.figure("normalised: least and greatest R", [published.min(), published.max()])
    check.claim(
        "z-scored, R lies on both sides of ½ and does not see the unit",
        published.min() < 0.5 < published.max() and np.allclose(published, normalised(1e4 * norms)),
    )
    check.claim("both order the memories alike", np.array_equal(seed.argsort(), published.argsort()))
    doubled = norms.mean(axis=1) * 2
    check.claim("integrating to t = 2T doubles the argument: R depends on age", (sigmoid(doubled) > seed).all())


@formula(
    "compression",
    "Optimal compression of a memory",
    Seed(
        "000",
        "2. Compressão de Memória Ótima",
        r"\min \|W_{\text{enc}} \cdot W_{\text{dec}} - I\| + \lambda \cdot \text{KL}(p(m)\|q(m))",
    ),
    verdict="wrong",
    published=r"\min \|(I - W_{dec} W_{enc})\,\Sigma^{1/2}\|_F^2\ (\text{PCA});\quad "
    r"\mathbb{E}\|x - \hat x\|^2 + \lambda\, KL(q(m|x) \,\|\, p(m))\ (\text{VAE})",
    source="Eckart & Young 1936; Baldi & Hornik 1989 (linear codec = PCA); Higgins et al. 2017 (β-VAE), eq. 4",
    remarks="With k < d and columns, W_enc W_dec is k×k and can be I whatever the codec loses; the other "
    "order is d×d with error ≥ √(d−k) whatever the data. No data stand in it. KL is not symmetric and "
    "needs a stochastic code; its direction is unstated.",
    variants={
        "pca": "weighted by the data's covariance",
        "vae": "stochastic code, KL(q(m|x)‖p(m))",
        "seed": "as written",
    },
    default="pca",
    units="x (d,), m (k,), k < d; error in (unit of x)², KL in nats",
    where="later: A16",
)
def check_compression(check: Check) -> None:
    d, k = 16, 4
    generator = np.random.default_rng(0)
    data = generator.normal(size=(500, d)) * np.linspace(3, 0.1, d) @ np.linalg.qr(generator.normal(size=(d, d)))[0]
    data -= data.mean(axis=0)

    def lost(decode: NDArray[Any], encode: NDArray[Any]) -> float:
        """Share of the variance that a round trip loses."""
        return float(((data - data @ (decode @ encode).T) ** 2).sum() / (data**2).sum())

    decode = generator.normal(size=(d, k))
    encode = np.linalg.pinv(decode)
    seed_error = np.linalg.norm(encode @ decode - np.eye(k))
    check.figure("random codec 16 → 4: ‖W_enc W_dec − I‖", seed_error)
    check.figure("share of variance it loses", lost(decode, encode))
    check.claim(
        "the k×k product is I for a random codec that loses most of the data",
        seed_error < 1e-10 and lost(decode, encode) > 0.3,
    )
    axes = np.linalg.svd(data, full_matrices=False)[2][:k].T
    for name, w in (("random", np.linalg.qr(decode)[0]), ("pca", axes)):
        error = np.linalg.norm(w @ w.T - np.eye(d))
        check.figure(f"{name} axes: ‖W_dec W_enc − I‖ and share of variance lost", [float(error), lost(w, w.T)])
        check.claim(f"{name}: the d×d product is √(d−k) from I", abs(error - np.sqrt(d - k)) < 1e-9)
    singular = np.linalg.svd(data, compute_uv=False) ** 2
    check.claim(
        "PCA loses exactly the smallest d−k variances",
        abs(lost(axes, axes.T) - singular[k:].sum() / singular.sum()) < 1e-9,
    )
    others = [np.linalg.qr(generator.normal(size=(d, k)))[0] for _ in range(50)]
    check.claim(
        "none of 50 random codecs loses less than PCA",
        min(lost(w, w.T) for w in others) > lost(axes, axes.T),
    )
    p, q = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    check.figure("KL(p‖q), KL(q‖p) of (0.9, 0.1) and (0.5, 0.5), nats", [kl(p, q), kl(q, p)])
    check.claim("KL ≥ 0, 0 for equals, and not symmetric", kl(p, p) == 0 < kl(p, q) and abs(kl(p, q) - kl(q, p)) > 0.1)


def levels(beta: float, n: int) -> Array:
    weight = np.exp(-beta * np.arange(n))
    return weight / weight.sum()


@formula(
    "levels",
    "Hierarchical levels",
    Seed(
        "000",
        "3. Atualização Hierárquica",
        r"P(\text{nível} = k) = \frac{\exp(-\beta \cdot k)}{\sum \exp(-\beta \cdot k)}",
    ),
    verdict="incomplete",
    published=r"P(k) = \frac{e^{-\beta k}}{\sum_{j=0}^{K-1} e^{-\beta j}},\quad k = \lfloor -\ln U / \beta "
    r"\rfloor \text{ conditioned on } k < K",
    source="truncated geometric law; as level rule: Malkov & Yashunin 2016 (HNSW), arXiv:1603.09320, "
    "algorithm 1, β = 1/m_L",
    remarks="The sum reuses the index k of the left side, and the number of levels K is unstated. "
    "Otherwise right: a truncated geometric law, the one by which HNSW draws its levels. β = 0 is uniform, "
    "β < 0 puts most at the far end.",
    variants={"paper": "sum over j = 0 … K−1, the seed document's law typed out"},
    default="paper",
    units="k = 0 … K−1 without unit, β > 0 without unit",
    where="later: A17",
)
def check_levels(check: Check) -> None:
    from scipy.special import chdtrc  # upper tail of the χ² law

    beta, n = 0.8, 5
    u = np.random.default_rng(7).random(20_000)
    drawn = np.floor(-np.log(u) / beta).astype(int)
    counts = np.bincount(drawn[drawn < n], minlength=n)

    def p_value(law: Array) -> float:
        expected = law * counts.sum()
        return float(chdtrc(n - 1, ((counts - expected) ** 2 / expected).sum()))

    right, wrong = p_value(levels(beta, n)), p_value(levels(1.1 * beta, n))
    check.figure("P(k), β = 0.8, five levels", levels(beta, n))
    check.figure("χ² p-value of HNSW's draw against the law, and against β 10 % too large", [right, wrong])
    check.claim("HNSW's draw follows the law, and the test would see β off by a tenth", right > 0.01 and wrong < 1e-6)
    check.claim(
        "counting from 1 in the place of 0 gives the same law",
        np.allclose(np.exp(-beta * np.arange(1, 6)) / np.exp(-beta * np.arange(1, 6)).sum(), levels(beta, n)),
    )
    check.claim("β = 0 is uniform", np.allclose(levels(0.0, n), 0.2))


@formula(
    "gate",
    "Learned relevance gate",
    Seed("000", "2. Relevância de Memória", r"R(x) = \sigma(W_v \cdot x + b_v) \in [0, 1]"),
    verdict="incomplete",
    published=r"g(x) = \sigma(w_v^\top x + b_v) \in (0, 1)",
    source="logistic unit: Cox 1958; as a gate: Hochreiter & Schmidhuber 1997, Neural Computation 9(8)",
    remarks="A second definition of the same R(x) (see `relevance`); here it is named `gate`. The interval "
    "is open in the reals, closed only by rounding: from 37 on, σ is 1 in fp64. W_v is one row, or R is a "
    "vector.",
    variants={"paper": "a learned logistic gate, the seed document's form"},
    default="paper",
    units="x (d,) without unit, g without unit",
    where="later: A20",
)
def check_gate(check: Check) -> None:
    z = np.linspace(-30, 30, 6001)
    g = sigmoid(z)
    check.figure("σ at −30, 0, 30", [float(sigmoid(v)) for v in (-30, 0, 30)])
    check.claim("between −30 and 30 the gate is strictly inside (0, 1)", (g > 0).all() and (g < 1).all())
    check.claim("from 37 on, rounding closes the interval", float(sigmoid(40.0)) == 1.0)
    check.claim("unlike `relevance`, it goes below ½", g.min() < 0.5)
    slope = np.gradient(g, z)
    check.figure("steepest slope", slope.max())
    check.claim(
        "the slope g(1 − g) is at most ¼",
        np.abs(slope[1:-1] - (g * (1 - g))[1:-1]).max() < 1e-5 and slope.max() <= 0.25,
    )


@formula(
    "episodic",
    "Episodic retention",
    Seed(
        "000",
        "3. Atualização de Memória Episódica",
        r"P(\text{retenção}) = 1 - \exp(-\lambda \cdot \sum \text{accesses})",
    ),
    verdict="incomplete",
    published=r"P(\text{keep}) = 1 - \exp\left(-\lambda \sum_j e^{-(t - t_j)/\tau}\right)",
    source="forgetting curve: Ebbinghaus 1885; sum over decaying accesses: Anderson & Schooler 1991 (ACT-R base level)",
    remarks="It only grows: a memory once used is kept for ever, though the seed document's own diagram has a "
    "forgetting mechanism. And a memory never read has P = 0: a sweep would delete every new one, so that "
    "those need protection.",
    variants={"decay": "each access fades with τ", "seed": "τ = ∞: only grows"},
    default="decay",
    units="λ an access, t and τ in one unit of time, P in [0, 1)",
    where="later: A21",
)
def check_episodic(check: Check) -> None:
    rate, tau, accesses = 0.5, 10.0, np.array([0.0, 1.0, 2.0, 3.0])
    times = np.array([3.0, 30.0, 100.0])

    def keep(t: float, decay: float) -> float:
        seen = accesses[accesses <= t]
        return float(1 - np.exp(-rate * np.exp(-(t - seen) / decay).sum()))

    seed, decayed = [keep(t, np.inf) for t in times], [keep(t, tau) for t in times]
    check.figure("P at t = 3, 30, 100 after accesses at 0, 1, 2, 3 (λ ½): seed", seed)
    check.figure("the same with τ = 10", decayed)
    check.claim(
        "the seed document's P never falls, with decay it goes to 0",
        seed[0] == seed[2] and decayed[0] > decayed[1] > decayed[2] and decayed[2] < 1e-3,
    )
    check.claim("τ → ∞ is the seed document", abs(keep(30.0, 1e12) - seed[1]) < 1e-9)
    check.claim("without an access P is 0: every new memory would be swept", keep(-1.0, tau) == 0.0)
    check.claim("each access raises P", all(keep(t + 1, np.inf) > keep(t, np.inf) for t in (0.0, 1.0, 2.0)))
