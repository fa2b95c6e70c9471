"""How a model learns: learning rate, cross-entropy, Adam, AdamW, and the step itself."""

from __future__ import annotations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array, log_softmax, softmax


@formula(
    "noam",
    "Learning rate with warm-up (Noam)",
    Seed(
        "000",
        "Fórmula do Learning Rate (lr)",
        "lr = d_model^(-0.5) * min(step_num^(-0.5), step_num * warmup_steps^(-1.5))",
        kind="code",
    ),
    Seed(
        "000",
        "1. Taxa de Aprendizado (Warmup)",
        r"\text{lr} = d_{\text{model}}^{-0.5} \times \min(\text{step\_num}^{-0.5}, \text{step\_num} \times "
        r"\text{warmup\_steps}^{-1.5})",
    ),
    verdict="right",
    published=r"lr = f \cdot d_{model}^{-1/2} \min(step^{-1/2},\ step \cdot warmup^{-3/2}),\quad step \geq 1",
    source="Vaswani et al. 2017, arXiv:1706.03762, eq. 3; the factor f as in tensor2tensor",
    remarks="Right. Step 0 is 0^(−½): steps count from 1. The rate depends on d_model and has no scale of "
    "its own, so that a factor f is usual.",
    variants={"paper": "f = 1, the seed document's form", "scaled": "times a factor f"},
    default="paper",
    units="step and warm-up in optimiser steps, d_model in features; the rate is that of Adam",
    where="oliveira.training.schedules",
)
def check_noam(check: Check) -> None:
    from oliveira.training.schedules import noam

    def seed(step: float) -> float:
        return float(512**-0.5 * min(step**-0.5, step * 4000**-1.5))

    curve = np.array([seed(step) for step in range(1, 20_001)])
    ours = np.array([noam(step, d_model=512, warmup_steps=4000) for step in range(1, 20_001)])
    check.figure("rate at steps 1, 2000, 4000, 16000 (d_model 512, warm-up 4000)", curve[[0, 1999, 3999, 15_999]])
    check.claim("the module is the seed document's formula, step by step", np.allclose(ours, curve, rtol=1e-12))
    check.claim(
        "the peak stands at step = warm-up and is (d_model · warm-up)^−½",
        curve.argmax() + 1 == 4000 and abs(curve.max() - (512 * 4000) ** -0.5) < 1e-15,
    )
    check.claim(
        "after four times the warm-up the rate is half the peak",
        abs(curve[15_999] / curve.max() - 0.5) < 1e-12,
    )
    try:
        seed(0)
        divides = False
    except ZeroDivisionError:
        divides = True
    check.claim("step 0 divides by zero", divides)


@formula(
    "cross-entropy",
    "Cross-entropy loss",
    Seed(
        "000",
        "Fórmula da Função de Perda (Loss)",
        r"\text{Loss} = - \frac{1}{N} \sum_{i=1}^{N} \left( y_{\text{true}} \cdot \log(y_{\text{pred}}) "
        r"\right)",
    ),
    Seed(
        "000",
        "2. Perda de Entropia Cruzada",
        r"\text{Loss} = -\frac{\sum(y_{\text{true}} \times \log(y_{\text{pred}}))}{N}",
    ),
    verdict="right",
    published=r"L = -\frac1N \sum_{i=1}^N \sum_c y_{ic} \log \text{softmax}(z_i)_c,\quad "
    r"\log\text{softmax}(z)_c = z_c - \log\sum_j e^{z_j}",
    source="Shannon 1948; with label smoothing: Szegedy et al. 2016, arXiv:1512.00567, §7",
    remarks="Right, with the sum over classes understood. Computed from probabilities, log 0 gives "
    "infinity, and 0 · log 0 is not a number; log-softmax of the logits has neither. N counts the targets: "
    "with padding in N the loss looks smaller than it is.",
    variants={"paper": "log-softmax of logits, padding left out of N", "seed": "from probabilities"},
    default="paper",
    units="nats a target; / ln 2 for bits; y is a distribution over classes",
    where="oliveira.training.loss",
)
def check_cross_entropy(check: Check) -> None:
    logits = np.array([[800.0, 0.0, 0.0], [1.0, 2.0, 0.5]])
    hot = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        seed = -(hot * np.log(softmax(logits))).sum(axis=1)
    published = -(hot * log_softmax(logits)).sum(axis=1)
    check.figure("seed, per row: the first logits are (800, 0, 0), the target is class 2", seed)
    check.figure("log-softmax, per row", published)
    check.claim(
        "from probabilities the loss is not finite, from logits it is 800",
        not np.isfinite(seed[0]) and abs(published[0] - 800) < 1e-9,
    )
    check.claim("where both are finite they agree", abs(seed[1] - published[1]) < 1e-14)
    z, y = logits[1], hot[1]
    step = 1e-6 * np.eye(3)
    slope = np.array([((-(y * log_softmax(z + d)).sum()) + (y * log_softmax(z - d)).sum()) / 2e-6 for d in step])
    check.claim("the gradient is softmax(z) − y", np.abs(slope - (softmax(z) - y)).max() < 1e-8)
    _check_padding(check, logits)


def _check_padding(check: Check, logits: Array) -> None:
    """The project's loss on two targets and two paddings, against N = 4."""
    import torch

    from oliveira.training.loss import cross_entropy

    padded = torch.tensor(np.concatenate([logits, logits]))
    targets = torch.tensor([1, 1, -100, -100])
    ours = float(cross_entropy(padded, targets))
    rows = float(-log_softmax(logits)[:, 1].sum())
    check.figure("2 targets and 2 paddings: padding in N, padding left out", [rows / 4, ours])
    check.claim("the module leaves padding out of N; counted in, the loss shown is half", abs(ours - rows / 2) < 1e-9)


def _against_torch(decay: float, *, decoupled: bool) -> float:
    """Largest difference of 20 steps of the readable AdamW and torch's optimiser, on f(x) = Σ x⁴."""
    import torch

    from oliveira.training.optim import AdamWReference

    ours, theirs = (torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64, requires_grad=True) for _ in range(2))
    reference = AdamWReference([ours], lr=1e-2, weight_decay=decay)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimiser = kind([theirs], lr=1e-2, weight_decay=decay)
    for _ in range(20):
        for x in (ours, theirs):
            x.grad = 4 * x.detach() ** 3
        reference.step()
        optimiser.step()
    return float((ours - theirs).detach().abs().max())


def _one_step(gradient: float, *, lr: float = 1.0, decay: float = 0.0) -> float:
    """Where AdamW takes the weight 1 in its first step."""
    import torch

    from oliveira.training.optim import AdamWReference

    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    weight.grad = torch.tensor(gradient, dtype=torch.float64)
    AdamWReference([weight], lr=lr, weight_decay=decay).step()
    return float(weight.detach())


@formula(
    "adam",
    "Adam",
    Seed("000", "Fórmula de Atualização de Parâmetros (Adam)", r"m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t"),
    Seed("000", "Fórmula de Atualização de Parâmetros (Adam)", r"v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2"),
    verdict="incomplete",
    published=r"\hat m_t = \frac{m_t}{1-\beta_1^t},\quad \hat v_t = \frac{v_t}{1-\beta_2^t},\quad "
    r"\theta_t = \theta_{t-1} - lr\,\frac{\hat m_t}{\sqrt{\hat v_t}+\varepsilon}",
    source="Kingma & Ba 2015, arXiv:1412.6980, algorithm 1",
    remarks="Both averages are right; the update itself and the bias correction are missing. Uncorrected, "
    "the first step is (1−β₁)/√(1−β₂) = 3.16 times as long as it should be.",
    variants={"paper": "with bias correction and update", "seed": "the averages only"},
    default="paper",
    units="g in loss a parameter; the step has about the size of lr, whatever the scale of g",
    where="oliveira.training.optim",
)
def check_adam(check: Check) -> None:
    error = _against_torch(0.0, decoupled=False)
    check.figure("readable twin against torch.optim.Adam after 20 steps", error)
    check.claim("the published update is torch's to 1e-12", error < 1e-12)
    corrected, beta1, beta2, g = 1 - _one_step(0.37), 0.9, 0.999, 0.37
    uncorrected = (1 - beta1) * g / ((1 - beta2) * g * g) ** 0.5  # the seed document's averages in the place of m̂ and v̂
    check.figure("first step in units of lr: corrected, uncorrected", [corrected, uncorrected])
    check.claim(
        "the corrected first step is lr, the uncorrected 0.1/√0.001 = 3.16 times that",
        abs(corrected - 1) < 1e-6 and abs(uncorrected - 0.1 / 0.001**0.5) < 1e-12,
    )
    check.claim("a thousand times the gradient gives the same step", abs(1 - _one_step(370.0) - corrected) < 1e-6)


@formula(
    "adamw",
    "AdamW",
    Seed(
        "000",
        "3. AdamW Update",
        r"m_t = \beta_1 \times m_{t-1} + (1 - \beta_1) \times g_t \\"
        "\n"
        r"v_t = \beta_2 \times v_{t-1} + (1 - \beta_2) \times g_t^2 \\"
        "\n"
        r"\text{param} = \text{param} - \text{lr} \times \left(\frac{\hat{m}_t}{\sqrt{\hat{v}_t} + "
        r"\epsilon}\right) - \text{lr} \times \text{weight\_decay} \times \text{param}",
    ),
    verdict="incomplete",
    published=r"\hat m_t = \frac{m_t}{1-\beta_1^t},\quad \hat v_t = \frac{v_t}{1-\beta_2^t},\quad "
    r"\theta_t = \theta_{t-1} - lr\,\frac{\hat m_t}{\sqrt{\hat v_t}+\varepsilon} - lr\,\lambda\,\theta_{t-1}",
    source="Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2 (as in torch, with lr in the decay)",
    remarks="m̂ and v̂ are used and never defined: m/(1−β₁ᵗ), v/(1−β₂ᵗ). The decay stands outside the "
    "fraction, which is right: that is what tells AdamW from Adam with L2.",
    variants={"paper": "bias-corrected", "seed": "m̂ := m, v̂ := v"},
    default="paper",
    units="as Adam; weight decay a step and per lr",
    where="oliveira.training.optim",
)
def check_adamw(check: Check) -> None:
    error, coupled = _against_torch(0.1, decoupled=True), _against_torch(0.1, decoupled=False)
    check.figure("readable twin against torch.optim.AdamW after 20 steps", error)
    check.figure("the same against Adam with L2 in the gradient", coupled)
    check.claim("the seed document's update with corrected averages is torch's AdamW to 1e-12", error < 1e-12)
    check.claim("decay inside the gradient is another optimiser", coupled > 1e-4)
    decayed = _one_step(0.0, lr=0.1, decay=0.5)
    check.figure("weight 1 after a step with no gradient, lr 0.1, decay 0.5", decayed)
    check.claim("without a gradient the weight shrinks by lr · decay", abs(decayed - 0.95) < 1e-12)


@formula(
    "backpropagation",
    "Gradient descent by backpropagation",
    Seed(
        "002",
        "Como o modelo aprende?",
        "Depois da primeira iteração utilizando matemática diferencial e calculando os "
        "gradientes eles são aplicados aos parâmetros gerando novos valores e tudo recomeça.",
        kind="words",
    ),
    verdict="incomplete",
    published=r"\theta \leftarrow \theta - \eta\,\nabla_\theta L,\quad "
    r"\frac{\partial L}{\partial x} = J^\top \frac{\partial L}{\partial y}\ \text{layer by layer, backwards}",
    source="Rumelhart, Hinton & Williams 1986, Nature 323, eq. 4–8; Werbos 1990 (through time)",
    remarks="Right in words; the sign and the step size η are unsaid. On a quadratic of curvature h the "
    "error grows as soon as η > 2/h. Backpropagation is the computing of the gradient; applying it is the "
    "optimiser's work.",
    variants={"paper": "θ − η∇L"},
    default="paper",
    units="η in parameter² a loss; that is why Adam's lr carries over between models and this one does not",
    where="oliveira.study.explanation",
)
def check_backpropagation(check: Check) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(8, 3)), generator.normal(size=8)
    w1, w2 = generator.normal(size=(3, 4)), generator.normal(size=4)

    def loss(w: Array) -> float:
        return float(((np.tanh(x @ w) @ w2 - y) ** 2).mean())

    hidden = np.tanh(x @ w1)
    outer = 2 * (hidden @ w2 - y) / 8  # dL/dŷ
    backward = x.T @ (outer[:, None] * w2 * (1 - hidden**2))
    numeric = np.zeros_like(w1)
    for index in np.ndindex(w1.shape):
        step = np.zeros_like(w1)
        step[index] = 1e-6
        numeric[index] = (loss(w1 + step) - loss(w1 - step)) / 2e-6
    check.figure("backward pass against finite differences, largest error", np.abs(backward - numeric).max())
    check.claim("the chain rule gives the gradient", np.abs(backward - numeric).max() < 1e-7)
    check.figure(
        "loss before, after −η∇L, after +η∇L (η = 0.01)",
        [loss(w1), loss(w1 - 0.01 * backward), loss(w1 + 0.01 * backward)],
    )
    check.claim(
        "the minus sign goes down, the plus sign up",
        loss(w1 - 0.01 * backward) < loss(w1) < loss(w1 + 0.01 * backward),
    )
    ends = {eta: abs((1 - eta * 2.0) ** 50) for eta in (0.9, 1.1)}  # L = w², curvature 2, limit η = 1
    check.figure("w² from w = 1 after 50 steps: |w| at η = 0.9 and 1.1", list(ends.values()))
    check.claim("above η = 2/h the error grows", ends[0.9] < 1e-4 and ends[1.1] > 1e3)
