"""Seed document 003, second part: pre-training tasks and vision. The seed document gives them in words."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import Array


@formula(
    "mlm",
    "Masked language modelling",
    Seed(
        "003",
        "BERT (2018)",
        "máscara de palavras (Masked Language Modeling), onde o modelo tenta prever palavras escondidas em "
        "uma sentença, e previsão de sentenças adjacentes (Next Sentence Prediction)",
        kind="words",
    ),
    verdict="incomplete",
    published=r"L = -\frac{1}{|M|}\sum_{t \in M} \log p(x_t \mid \tilde x) - \log p(\text{next} \mid "
    r"\tilde x),\quad \tilde x_t = [\text{MASK}]\ 80\,\%,\ \text{random}\ 10\,\%,\ x_t\ 10\,\%",
    source="Devlin et al. 2018, arXiv:1810.04805, §3.1 and appendix A.1",
    remarks="Right in words; 15 % of the tokens are chosen, and of those 80/10/10 are hidden, exchanged, "
    "kept: [MASK] never appears later, and the model may not rely on it. RoBERTa (2019) found "
    "next-sentence prediction of no use.",
    variants={"paper": "15 %, 80/10/10, with next sentence"},
    default="paper",
    units="nats a chosen token",
    where="oliveira.models.bert",
)
def check_mlm(check: Check) -> None:
    generator = np.random.default_rng(0)
    n = 200_000
    chosen = generator.random(n) < 0.15
    fate = generator.random(n)
    shares = [float(((fate >= low) & (fate < high) & chosen).mean()) for low, high in ((0, 0.8), (0.8, 0.9), (0.9, 1))]
    check.figure("share of all tokens hidden, exchanged, kept but asked for", shares)
    check.claim("12 %, 1.5 % and 1.5 %", np.allclose(shares, [0.12, 0.015, 0.015], atol=0.003))
    check.figure("targets a pass over n tokens: MLM over GPT", float(chosen.mean()))
    check.claim("a causal model learns from every token, this one from about 15 %", abs(chosen.mean() - 0.15) < 0.003)


@formula(
    "vit",
    "Image patches as tokens",
    Seed(
        "003",
        "Vision Transformer (2020)",
        "o ViT substitui as convoluções tradicionais ao dividir uma imagem em pequenos patches e "
        "tratá-los como sequências de tokens",
        kind="words",
    ),
    verdict="right",
    published=r"T = HW/P^2,\quad z_0 = [x_{class};\ x_p^1 E;\ \dots;\ x_p^T E] + E_{pos}",
    source="Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1",
    remarks="Right in words. Cutting and projecting is itself a convolution with kernel and stride P: it "
    "replaces all but the first.",
    variants={"paper": "linear patch projection"},
    default="paper",
    units="image (C, H, W), P divides H and W; tokens (T, d_model)",
    where="oliveira.models.vit",
)
def check_vit(check: Check) -> None:
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 8, 12, generator=generator, dtype=torch.float64)
    kernel = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    convolved = F.conv2d(image, kernel, stride=4).flatten(2).mT
    patches = image.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    error = (patches @ kernel.flatten(1).T - convolved).abs().max()
    check.figure("tokens of an 8×12 image with P = 4", convolved.shape[1])
    check.figure("patch projection against strided convolution, largest error", error)
    check.claim("they are the same", error < 1e-12 and convolved.shape[1] == 8 * 12 // 16)
    tokens = [(224 // side) ** 2 for side in (16, 8)]
    check.figure("tokens of a 224² image at P = 16, 8", tokens)
    check.claim("half the patch side is sixteen times the attention", tokens[1] ** 2 == 16 * tokens[0] ** 2)


@formula(
    "swin",
    "Shifted windows",
    Seed(
        "003",
        "Swin Transformer (2021)",
        "abordagem hierárquica com janelas deslizantes (sliding windows), onde o mecanismo de "
        "self-attention é aplicado localmente dentro dessas janelas",
        kind="words",
    ),
    verdict="wrong",
    published=r"\Omega(MSA) = 4hwC^2 + 2(hw)^2C,\quad \Omega(W\text{-}MSA) = 4hwC^2 + 2M^2hwC",
    source="Liu et al. 2021, arXiv:2103.14030, eq. 1–2 and §3.2",
    remarks="The windows do not slide: they tile the image, and every second layer shifts the tiling by "
    "half a window. Sliding windows are what the paper compares against (§3.2, table 5) and finds slower. "
    "It is the merging of patches, not the window, that grows.",
    variants={"paper": "shifted tiling", "seed": "sliding windows"},
    default="paper",
    units="h, w in patches, M the window's side, C channels; Ω in multiply-adds",
    where="later: D12",
)
def check_swin(check: Check) -> None:
    h, m, c = 56, 7, 96
    full, windowed = 4 * h * h * c**2 + 2 * (h * h) ** 2 * c, 4 * h * h * c**2 + 2 * m**2 * h * h * c
    check.figure("multiply-adds at 56×56×96: full, windows of 7", [full, windowed])
    check.claim(
        "doubling the side: windows 4 times the work, full attention nearly 16 times",
        abs((4 * (2 * h) ** 2 * c**2 + 2 * m**2 * (2 * h) ** 2 * c) / windowed - 4) < 1e-12
        and (4 * (2 * h) ** 2 * c**2 + 2 * (2 * h) ** 4 * c) / full > 13,
    )
    place = np.arange(28)
    tiles = [place // m, (place + m // 2) // m]
    reach = tiles[0][:, None] == tiles[0]
    shifted = tiles[1][:, None] == tiles[1]
    both = (reach.astype(int) @ shifted.astype(int)) > 0
    check.figure(
        "places seen by each of 28: one layer, with a shifted one",
        [float(reach.sum(1).mean()), float(both.sum(1).mean())],
    )
    check.claim("without the shift windows never meet; a shifted layer joins them", not reach[6, 7] and both[6, 7])


def giou(a: Array, b: Array) -> tuple[float, float]:
    """(IoU, GIoU) of boxes (x0, y0, x1, y1)."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = float(np.prod(np.clip(high - low, 0, None)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - inter
    hull = float(np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])))
    return inter / union, inter / union - (hull - union) / hull


@formula(
    "detr-loss",
    "DETR's set loss",
    Seed(
        "003",
        "DETR (2020)",
        "O DETR utiliza três componentes principais em sua função de perda: a Matching Loss, baseada no "
        "algoritmo de Hungarian matching, que faz a correspondência entre as previsões e os objetos reais; "
        "a perda de classificação, que usa entropia cruzada para penalizar previsões incorretas de classe; "
        "e a perda de regressão das caixas delimitadoras, que combina L1 loss para ajustar as coordenadas "
        "das caixas e generalized IoU loss para melhorar o alinhamento entre as caixas preditas e as reais.",
        kind="words",
    ),
    verdict="wrong",
    published=r"\hat\sigma = \arg\min_\sigma \sum_i C(y_i, \hat y_{\sigma(i)}),\quad L = \sum_i "
    r"\left[-\log \hat p_{\hat\sigma(i)}(c_i) + \lambda_{1}\|b_i - \hat b_{\hat\sigma(i)}\|_1 + "
    r"\lambda_{iou}(1 - GIoU)\right]",
    source="Carion et al. 2020, arXiv:2005.12872, eq. 1–2 and appendix A.2; GIoU: Rezatofighi et al. 2019, "
    "arXiv:1902.09630",
    remarks="The matching is not a third loss: it chooses which prediction answers for which object, and "
    "no gradient flows through it. Two losses remain. Unmatched predictions learn 'no object', "
    "down-weighted by 10.",
    variants={"paper": "match, then class and box losses"},
    default="paper",
    units="boxes (cx, cy, w, h) in shares of the image; losses without unit",
    where="later: D11",
)
def check_detr_loss(check: Check) -> None:
    from scipy.optimize import linear_sum_assignment

    cost = np.random.default_rng(0).random((6, 6))
    rows, columns = linear_sum_assignment(cost)
    brute = min(sum(cost[i, p[i]] for i in range(6)) for p in permutations(range(6)))
    greedy, free = 0.0, set(range(6))
    for i in range(6):
        best = min(free, key=lambda j: cost[i, j])
        greedy += cost[i, best]
        free.remove(best)
    check.figure(
        "cost of 6 pairs: Hungarian, brute force, greedy",
        [float(cost[rows, columns].sum()), float(brute), float(greedy)],
    )
    check.claim(
        "the Hungarian matching is the optimum, the greedy one is not",
        abs(cost[rows, columns].sum() - brute) < 1e-12 and greedy > brute + 1e-6,
    )
    nudged = cost + 1e-7 * np.random.default_rng(1).random((6, 6))
    check.claim(
        "a small change of the cost leaves the matching as it is: no gradient",
        np.array_equal(linear_sum_assignment(nudged)[1], columns),
    )
    unit = np.array([0.0, 0, 1, 1])
    near, far = giou(unit, np.array([1.5, 0, 2.5, 1])), giou(unit, np.array([9.0, 0, 10, 1]))
    check.figure("(IoU, GIoU) of boxes half a side apart, eight sides apart", [*near, *far])
    check.claim("IoU cannot tell near from far, GIoU can", near[0] == far[0] == 0 and near[1] > far[1] > -1)
