"""Cheaper models: low-rank adapters, four bits, how much to train, a few experts of many."""

from __future__ import annotations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array, softmax


@formula(
    "lora",
    "LoRA",
    Seed(
        "000",
        "1. LoRA Update Rule",
        r"W' = W + \frac{\alpha}{r} \times BA \\"
        "\n"
        r"\text{Onde:} \\"
        "\n"
        r"B \in \mathbb{R}^{r \times d}, A \in \mathbb{R}^{d \times r} \\"
        "\n"
        r"r \ll d \text{ (dimensão original)}",
    ),
    verdict="wrong",
    published=r"W' = W + \frac{\alpha}{r} BA,\quad B \in \mathbb{R}^{d_{out} \times r} = 0 \text{ at the "
    r"start},\ A \in \mathbb{R}^{r \times d_{in}}",
    source="Hu et al. 2021, arXiv:2106.09685, eq. 3 and §4.1; α/√r: Kalajdzievski 2023, arXiv:2312.03732",
    remarks="The two shapes are exchanged: as written BA is r×r and cannot be added to W (d×d). Worse, r = "
    "1 gives 1×1, which array libraries add to every weight without a word. The start B = 0 is missing: "
    "without it the first step is random.",
    variants={"paper": "corrected shapes, α/r", "rslora": "corrected shapes, α/√r"},
    default="paper",
    units="W (d_out, d_in); r, α without unit; r(d_out + d_in) parameters in the place of d_out · d_in",
    where="oliveira.adaptation.lora",
)
def check_lora(check: Check) -> None:
    d, r, alpha = 64, 4, 8.0
    generator = np.random.default_rng(0)
    w = generator.normal(size=(d, d))
    b_seed, a_seed = generator.normal(size=(r, d)), generator.normal(size=(d, r))
    check.figure("shape of BA as written (d = 64, r = 4)", list((b_seed @ a_seed).shape))
    try:
        _ = w + b_seed @ a_seed
        refused = False
    except ValueError:
        refused = True
    check.claim("as written BA is r×r and cannot be added to W", (b_seed @ a_seed).shape == (r, r) and refused)
    silent = w + b_seed[:1] @ a_seed[:, :1]
    check.claim("with r = 1 it is 1×1 and adds one number to every weight", np.ptp(silent - w) < 1e-12)
    _check_merge(check, d, r, alpha)


def _check_merge(check: Check, d: int, r: int, alpha: float) -> None:
    import torch

    from oliveira.adaptation.lora import LoRALinear

    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    layer, x = LoRALinear(torch.nn.Linear(d, d), r, alpha).double(), torch.randn(3, d, dtype=torch.float64)
    with torch.no_grad():
        start = (layer(x) - layer.linear(x)).abs().max()
        layer.lora_b.normal_()
        torch.random.set_rng_state(state)
        rank = int(torch.linalg.matrix_rank(layer.lora_b @ layer.lora_a))
        apart = layer(x)
        error = (layer.merged()(x) - apart).abs().max()
    check.figure("merged against unmerged, largest error", error)
    check.figure("parameters trained, of", [layer.lora_a.numel() + layer.lora_b.numel(), d * d])
    check.claim("with B = 0 the adapted model starts as the base model", start == 0)
    check.claim("BA has rank r, and merged and unmerged agree", rank == r and error < 1e-12)


@formula(
    "nf4",
    "Four bits in blocks of 64",
    Seed(
        "000",
        "2. Quantização 4-bit (NF4)",
        r"q(x) = \text{round}\left(\frac{x - \min}{\max - \min} \times (2^4 - 1)\right) \\"
        "\n"
        r"\text{com normalização por blocos de 64 valores}",
    ),
    verdict="wrong",
    published=r"q(x) = \arg\min_j \left| \frac{x}{\max|x|} - c_j \right|,\quad c_0 \dots c_{15} = "
    r"\text{normal quantiles, }c_0 = -1,\ c_7 = 0,\ c_{15} = 1",
    source="Dettmers et al. 2023 (QLoRA), arXiv:2305.14314, eq. 4 and appendix E",
    remarks="A sound quantiser under the wrong name: this is uniform asymmetric INT4. Zero is in general not "
    "among its 16 levels, a constant block is 0/0, and it needs two scalars a block. On Gaussian blocks of "
    "64 it is not worse than NF4; NF4 wins on heavy tails, zeros and stored bits.",
    variants={
        "nf4": "QLoRA's code book",
        "int4": "the seed document's formula: uniform, min and max a block",
        "seed": "another name of int4",
    },
    default="nf4",
    units="x any unit, in blocks of 64; codes 0 … 15; 4.5 bits a weight (nf4 fp32 scale; int4 two fp16), "
    "nf4 doubly quantised 4.127",
    where="oliveira.compression.nf4",
)
def check_nf4(check: Check) -> None:
    import torch
    from scipy.special import ndtri  # quantiles of N(0, 1)

    from oliveira.compression.int4 import dequantise_int4, quantise_int4
    from oliveira.compression.nf4 import CODE, dequantise_nf4, quantise_nf4

    def int4(x: Array) -> Array:
        return dequantise_int4(quantise_int4(torch.tensor(x, dtype=torch.float32)), x.shape).double().numpy()

    def nf4(x: Array) -> Array:
        return dequantise_nf4(quantise_nf4(torch.tensor(x, dtype=torch.float32)), x.shape).double().numpy()

    for name in ("normal", "laplace", "t4"):
        samples = [_sample(name, seed) for seed in range(3)]
        errors = [[_relative_rmse(q(x), x) for x in samples] for q in (int4, nf4)]
        check.figure(f"{name}: relative RMSE in %, int4 (seeds 0, 1, 2)", errors[0])
        check.figure(f"{name}: relative RMSE in %, nf4 (seeds 0, 1, 2)", errors[1])
        wins = [a < b for a, b in zip(*errors, strict=True)]
        if name == "normal":
            check.claim("normal: the seed document's int4 is a little better in each of three seeds", all(wins))
        else:
            check.claim(f"{name}: nf4 is better in each of three seeds", not any(wins))
    sparse = _sample("normal", 3)
    sparse[:, ::4] = 0
    kept = [float((q(sparse)[:, ::4] == 0).mean() * 100) for q in (int4, nf4)]
    check.figure("exact zeros kept in %: int4, nf4", kept)
    check.claim("nf4 keeps every zero, int4 next to none", kept[0] < 1 and kept[1] == 100)
    constant = np.full(64, 2.0)
    with np.errstate(invalid="ignore"):
        check.claim(
            "a constant block is 0/0 in the seed document's formula",
            np.isnan((constant - constant.min()) / (constant.max() - constant.min())).all(),
        )
    edge = 0.5 * ((1 - 1 / 32) + (1 - 1 / 30))  # QLoRA: the outermost quantile, between those of 16 and 15 levels
    sides = ndtri(np.linspace(edge, 0.5, 9))[:-1], [0.0], -ndtri(np.linspace(edge, 0.5, 8))[:-1]
    book = np.sort(np.concatenate(sides))
    check.claim(
        "the code book is eight and seven normal quantiles and a zero",
        np.allclose(book / book.max(), CODE, atol=1e-6),
    )
    tensor = torch.tensor(_sample("normal", 0), dtype=torch.float32)
    bits = [
        sum(part.numel() * part.element_size() * 8 for part in stored) / tensor.numel()
        for stored in (quantise_int4(tensor), quantise_nf4(tensor))
    ]
    check.figure("bits a weight as stored: int4, nf4 doubly quantised", bits)
    check.claim("int4 costs 4.5 bits, nf4 4.13", abs(bits[0] - 4.5) < 1e-9 and abs(bits[1] - 4.127) < 0.002)


def _sample(law: str, seed: int) -> Array:
    """256 blocks of 64 values of that law."""
    generator = np.random.default_rng(seed)
    match law:
        case "laplace":
            return generator.laplace(size=(256, 64))
        case "t4":
            return generator.standard_t(4, size=(256, 64))
    return generator.normal(size=(256, 64))


def _relative_rmse(y: Array, x: Array) -> float:
    return float(np.sqrt(((y - x) ** 2).mean() / (x**2).mean()) * 100)


@formula(
    "chinchilla",
    "Chinchilla scaling law",
    Seed(
        "000",
        "3. Lei de Escalabilidade de Chinchilla",
        r"\text{Compute ótimo (FLOPs) para treinamento:} \\"
        "\n"
        r"C = 1.5 \times 10^6 \times N \\"
        "\n"
        r"\text{Onde } N = \text{número de parâmetros}",
    ),
    verdict="wrong",
    published=r"C \approx 6ND,\quad D \approx 20N \Rightarrow C \approx 120N^2,\quad "
    r"L(N, D) = E + \frac{A}{N^{0.34}} + \frac{B}{D^{0.28}}",
    source="Hoffmann et al. 2022, arXiv:2203.15556, eq. 2, eq. 4 and table 3; Besiroglu et al. 2024, "
    "arXiv:2404.10102, refit it",
    remarks="C = 1.5e6·N fixes D = C/(6N) = 250 000 tokens for every N; it is the optimum at N = 12 500 "
    "only. A bigger model needs more text, and compute grows with N². The unit, FLOP a parameter, hides in "
    "the constant.",
    variants={
        "chinchilla": "D = 20 N",
        "parametric": "argmin of L(N, D) at fixed C",
        "seed": "the 250 000-token smoke budget",
    },
    default="chinchilla",
    units="N parameters, D tokens, C floating-point operations, L nats a token",
    where="later: A9",
)
def check_chinchilla(check: Check) -> None:
    sizes = np.array([12_500, 1e6, 5e6, 1e7, 1.35e8, 7e10])
    tokens = 1.5e6 * sizes / (6 * sizes)
    short = 120 * sizes**2 / (1.5e6 * sizes)
    check.figure("parameters N", sizes)
    check.figure("tokens the seed document's C pays for", tokens)
    check.figure("published C over the seed document's C", short)
    check.claim("the seed document's law gives 250 000 tokens for every N", np.allclose(tokens, 250_000))
    check.claim(
        "both laws cross at N = 12 500, and the seed document is 80 times too low at a million",
        abs(1.5e6 / 120 - 12_500) < 1e-9 and abs(short[0] - 1) < 1e-12 and abs(short[1] - 80) < 1e-9,
    )
    e, a, b, alpha, beta = 1.69, 406.4, 410.7, 0.34, 0.28
    compute = 6 * 7e10 * 1.4e12
    grid = np.logspace(9, 12, 30_001)
    loss = e + a / grid**alpha + b / (compute / 6 / grid) ** beta
    closed = ((alpha * a) / (beta * b)) ** (1 / (alpha + beta)) * (compute / 6) ** (beta / (alpha + beta))
    check.figure(
        "Chinchilla's compute (70e9 parameters, 1.4e12 tokens): best N by the parametric law",
        grid[loss.argmin()],
    )
    check.claim("the numeric minimum is the closed form (eq. 4)", abs(grid[loss.argmin()] / closed - 1) < 1e-3)
    check.claim(
        "the paper's parametric fit asks for fewer parameters than its own 20 tokens a parameter",
        closed < 7e10,
    )


@formula(
    "moe",
    "Mixture of experts, routing",
    Seed(
        "000",
        "1. Roteamento MoE",
        r"G(x) = \text{softmax}(W_g \cdot x + b_g) \\" "\n" r"y = \sum_{i=1}^k G(x)_i \cdot E_i(x)",
    ),
    Seed(
        "001",
        "Combinação de Modelos com Misture of Experts",
        "Um mecanismo de roteamento aprende a selecionar quais especialistas devem ser ativados para cada entrada",
        kind="words",
    ),
    verdict="wrong",
    published=r"y = \sum_{i \in \mathcal T} \frac{e^{g_i}}{\sum_{j \in \mathcal T} e^{g_j}} E_i(x),\quad "
    r"\mathcal T = \text{top-}k(g),\ g = W_g x;\qquad L_{aux} = E \sum_i f_i P_i",
    source="Shazeer et al. 2017, arXiv:1701.06538, eq. 3–5; loss: Fedus et al. 2021 (Switch), arXiv:2101.03961, eq. 4",
    remarks="The sum from 1 to k takes the first k experts, not the k best; the weights do not sum to one; "
    "there is no balance loss, so that experts may starve. With k = E it is the dense mixture of 1991. "
    "Seed document 001 says that GPT-3 uses MoE: GPT-3 is dense.",
    variants={"topk": "the k best, renormalised, with balance loss", "seed": "dense mixture when k = E"},
    default="topk",
    units="x (d,); E experts, k of them run for a token; f_i share of tokens, P_i mean gate, both without unit",
    where="oliveira.nn.moe",
)
def check_moe(check: Check) -> None:
    experts, k = 8, 2
    g = np.random.default_rng(0).normal(size=(4000, experts))
    gates = softmax(g)
    best = np.argsort(-g, axis=1)[:, :k]
    agree = float((np.sort(best, axis=1) == [0, 1]).all(axis=1).mean())
    check.figure("inputs on which the first 2 of 8 are the best 2", agree)
    check.figure(
        "mean weight used by the seed document, by the best 2 unnormalised",
        [gates[:, :k].sum(axis=1).mean(), np.take_along_axis(gates, best, 1).sum(axis=1).mean()],
    )
    check.claim("the first k are the best k on about 1 of 28 inputs", abs(agree - 1 / 28) < 0.012)
    check.claim("the first k carry about k/E of the weight", abs(gates[:, :k].sum(axis=1).mean() - k / experts) < 0.01)
    top = np.take_along_axis(g, best, 1)
    picked = np.take_along_axis(gates, best, 1)
    check.claim(
        "softmax over the top k is the softmax over all, renormalised",
        np.allclose(softmax(top), picked / picked.sum(axis=1, keepdims=True)),
    )

    def balance(logits: Array) -> float:
        share = np.bincount(logits.argmax(axis=1), minlength=experts) / len(logits)
        return float(experts * share @ softmax(logits).mean(axis=0))

    collapsed = g + 20 * np.eye(experts)[0]
    check.figure("balance loss: random router, router collapsed on one expert", [balance(g), balance(collapsed)])
    check.claim(
        "the balance loss is about 1 when even and E = 8 when collapsed",
        abs(balance(g) - 1) < 0.05 and abs(balance(collapsed) - experts) < 0.01,
    )
