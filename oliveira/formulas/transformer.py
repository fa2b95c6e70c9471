"""The Transformer's own formulas: softmax, attention, heads, feed-forward, layer norm, positions."""

from __future__ import annotations

import numpy as np

from oliveira.formulas.registry import Check, Seed, formula
from oliveira.formulas.tools import softmax


@formula(
    "softmax",
    "Softmax",
    Seed("000", "Fórmula da Atenção (Attention)", r"\text{softmax}\left( \frac{QK^T}{\sqrt{d_k}} \right)"),
    Seed("000", "1. Roteamento MoE", r"G(x) = \text{softmax}(W_g \cdot x + b_g)"),
    verdict="right",
    published=r"\text{softmax}(z)_i = \frac{e^{z_i - \max z}}{\sum_j e^{z_j - \max z}}",
    source="Bridle 1990, 'Probabilistic interpretation of feedforward classification network outputs'",
    remarks="Named by the seed document, never defined. Computed as e^z / Σ e^z it overflows from z ≈ 89 in fp32 "
    "and 710 in fp64; subtracting the maximum changes nothing else. Its Jacobian is diag(p) − p pᵀ.",
    variants={"paper": "the maximum is subtracted first", "naive": "e^z / Σ e^z, overflows"},
    default="paper",
    units="z any real numbers without unit, p in (0, 1) with sum 1",
    where="oliveira.nn.attention",
)
def check_softmax(check: Check) -> None:
    large = np.array([1000.0, 999.0])
    with np.errstate(over="ignore", invalid="ignore"):
        naive = np.exp(large) / np.exp(large).sum()
    check.figure("naive softmax of (1000, 999)", naive)
    check.figure("softmax of (1000, 999)", softmax(large))
    check.claim(
        "the naive form is not a number at z = 1000, the shifted one is 1/(1+e⁻¹)",
        np.isnan(naive).all() and np.isclose(softmax(large)[0], 1 / (1 + np.exp(-1))),
    )
    z = np.array([0.3, -1.2, 2.0])
    p = softmax(z)
    step = 1e-6 * np.eye(3)
    slope = np.stack([(softmax(z + d) - softmax(z - d)) / 2e-6 for d in step], axis=1)
    error = np.abs(slope - (np.diag(p) - np.outer(p, p))).max()
    check.figure("Jacobian against finite differences, largest error", error)
    check.claim("the Jacobian is diag(p) − p pᵀ", error < 1e-8)
    check.claim("adding a constant to every z changes nothing", np.allclose(softmax(z + 7.0), p, atol=1e-15))


@formula(
    "attention",
    "Scaled dot-product attention",
    Seed(
        "000",
        "Fórmula da Atenção (Attention)",
        r"\text{Attention}(Q, K, V) = \text{softmax}\left( \frac{QK^T}{\sqrt{d_k}} \right) V",
    ),
    Seed(
        "003",
        "Self-Attention",
        "Com o self-attention, o modelo pode identificar relações importantes em toda a "
        "sequência, de maneira eficiente e paralelizada.",
        kind="words",
    ),
    verdict="right",
    published=r"\text{Attention}(Q,K,V) = \text{softmax}\left(\frac{QK^\top}{\sqrt{d_k}} + M\right)V,\quad "
    r"M_{ts} = -\infty \text{ where } t \text{ may not attend to } s",
    source="Vaswani et al. 2017, arXiv:1706.03762, eq. 1 and §3.2.3 (the mask)",
    remarks="Right as written. The mask is left out: without it a language model reads the token it has to "
    "predict. Seed document 003 translates self-attention as 'atenção auto-regressiva'; self-attention "
    "(autoatenção) is not auto-regression, which is what the causal mask adds.",
    variants={
        "seed": "no mask: every position sees every other",
        "paper": "with the boolean mask, True = may attend",
    },
    default="paper",
    units="Q (…, T, d_k), K (…, S, d_k), V (…, S, d_v); scores without unit",
    where="oliveira.nn.attention",
)
def check_attention(check: Check) -> None:
    import torch
    import torch.nn.functional as F

    from oliveira.nn.attention import attention_reference, causal_mask

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, 64, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = causal_mask(7, 0)
    error = (attention_reference(q, k, v, mask) - F.scaled_dot_product_attention(q, k, v, attn_mask=mask)).abs().max()
    check.figure("reference against torch's fused kernel, largest error", error)
    check.claim("the equation is what the fused kernel computes", error < 1e-12)
    spread = (q @ k.mT).std()
    check.figure("standard deviation of q·k at d_k = 64", spread)
    check.figure("the same after / √d_k", spread / 8)
    check.claim("without √d_k the scores spread by about √64 = 8", 7 < spread < 9)
    other_v, other_k = v.clone(), k.clone()
    other_v[..., -1, :] += 1
    other_k[..., -1, :] += 1
    for name, m in (("seed", None), ("causal", mask)):
        change = attention_reference(q, other_k, other_v, m) - attention_reference(q, k, v, m)
        leak = change[..., 0, :].abs().max()
        check.figure(f"first output moves by, when the last token changes ({name})", leak)
        check.claim(f"{name}: the future is {'seen' if m is None else 'not seen'}", (leak > 0) == (m is None))


@formula(
    "multi-head",
    "Multi-head attention",
    Seed(
        "000",
        "1. Atenção Multi-Head",
        r"\text{Attention}(Q, K, V) = \text{softmax}\left(\frac{QK^T}{\sqrt{d_k}}\right)V",
    ),
    verdict="incomplete",
    published=r"\text{MultiHead}(x) = [\text{head}_1 \| \dots \| \text{head}_h]\, W_O,\quad "
    r"\text{head}_i = \text{Attention}(xW_Q^i, xW_K^i, xW_V^i)",
    source="Vaswani et al. 2017, arXiv:1706.03762, §3.2.2; grouped queries: Ainslie et al. 2023, arXiv:2305.13245",
    remarks="The heading says multi-head, the formula is one head: the projections, the concatenation and "
    "W_O are missing. One head cannot attend to two places with two contents at once: its weights are one "
    "distribution.",
    variants={
        "seed": "h = 1, no projections",
        "paper": "h heads",
        "grouped": "fewer heads for keys and values",
    },
    default="paper",
    units="x (B, T, d_model); d_model = h · d_k",
    where="oliveira.nn.attention",
)
def check_multi_head(check: Check) -> None:
    import torch

    from oliveira.nn.attention import MultiHeadAttention, attention_reference

    generator = torch.Generator().manual_seed(0)
    layer = MultiHeadAttention(8, 4).double()
    for weight in layer.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64) / 8**0.5
    x = torch.randn(1, 5, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = layer.query(x), layer.key(x), layer.value(x)
        heads = [attention_reference(*(t[..., 2 * i : 2 * i + 2] for t in (q, k, v))) for i in range(4)]
        by_hand = layer.output(torch.cat(heads, dim=-1))
        error = (layer(x) - by_hand).abs().max()
        one_head = (layer(x) - layer.output(attention_reference(q, k, v))).abs().max()
    check.figure("module against heads written out, largest error", error)
    check.figure("one head of full width differs by", one_head)
    check.claim("concatenating h heads gives the module's output", error < 1e-12)
    check.claim("the seed document's single head is another function", one_head > 1e-2)


@formula(
    "ffn",
    "Position-wise feed-forward network",
    Seed("000", "Fórmula da Rede Feedforward (FFN)", r"\text{FFN}(x) = \max(0, xW_1 + b_1) W_2 + b_2"),
    Seed("000", "2. Feed-Forward Network", r"\text{FFN}(x) = \max(0, xW_1 + b_1)W_2 + b_2"),
    verdict="right",
    published=r"\text{FFN}(x) = \max(0, xW_1 + b_1) W_2 + b_2",
    source="Vaswani et al. 2017, arXiv:1706.03762, eq. 2; gated: Shazeer 2020, arXiv:2002.05202",
    remarks="Right. Later models put GELU or SwiGLU in the place of max(0, ·). Without it the two layers "
    "are one linear map.",
    variants={"paper": "ReLU, the seed document's form", "gelu": "GPT-2", "swiglu": "Llama: gated, no bias"},
    default="paper",
    units="x (…, d_model) → (…, d_model), each position by itself",
    where="oliveira.nn.feedforward",
)
def check_ffn(check: Check) -> None:
    import torch
    from torch import nn

    from oliveira.nn.feedforward import FeedForward

    layer = FeedForward(6, 24, nn.ReLU()).double()
    generator = torch.Generator().manual_seed(0)
    for weight in layer.parameters():
        weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    w1, b1, w2, b2 = layer.up.weight.T, layer.up.bias, layer.down.weight.T, layer.down.bias
    with torch.no_grad():
        error = (layer(x) - (torch.clamp(x @ w1 + b1, min=0) @ w2 + b2)).abs().max()
        collapsed = ((x @ w1 + b1) @ w2 + b2 - (x @ (w1 @ w2) + (b1 @ w2 + b2))).abs().max()
        moved = (layer(x.flip(0)) - layer(x).flip(0)).abs().max()
    check.figure("module against the equation, largest error", error)
    check.figure("parameters at d_model 6, d_ff 24", sum(p.numel() for p in layer.parameters()))
    check.claim("the module is the equation", error < 1e-12)
    check.claim("parameters = 2·d·d_ff + d_ff + d", sum(p.numel() for p in layer.parameters()) == 2 * 6 * 24 + 24 + 6)
    check.claim("without the ReLU both layers are one linear map", collapsed < 1e-10)
    check.claim("each position is computed by itself", moved < 1e-12)


@formula(
    "layernorm",
    "Layer normalisation",
    Seed(
        "000",
        "Fórmula de Layer Normalization (LayerNorm)",
        r"\text{LayerNorm}(x) = \gamma \frac{x - \mu}{\sigma} + \beta",
    ),
    Seed("000", "3. Normalização de Camada", r"\text{LayerNorm}(x) = \gamma \frac{x - \mu}{\sigma} + \beta"),
    Seed(
        "003",
        "Layer Normalization",
        "o LayerNorm normaliza cada amostra de forma independente, sem depender de outras amostras no lote",
        kind="words",
    ),
    verdict="incomplete",
    published=r"\text{LayerNorm}(x) = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta,\quad "
    r"\sigma^2 = \tfrac1d\sum_i (x_i - \mu)^2",
    source="Ba et al. 2016, arXiv:1607.06450, eq. 3–4; ε as in torch.nn.LayerNorm",
    remarks="ε is missing: a constant row is 0/0. Also unsaid: μ and σ are taken over the features of one "
    "position, and σ² divides by d, not d − 1 (15.5 % apart at d = 4).",
    variants={"seed": "ε = 0", "paper": "with ε", "rmsnorm": "no μ, no β (Zhang & Sennrich 2019)"},
    default="paper",
    units="x (…, d_model) any unit; out without unit, mean β, spread γ",
    where="oliveira.nn.norm",
)
def check_layernorm(check: Check) -> None:
    import torch

    from oliveira.nn.norm import LayerNorm, layer_norm_reference

    one, zero = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    constant, x = (
        torch.full((4,), 3.0, dtype=torch.float64),
        torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64),
    )
    seed = layer_norm_reference(constant, one, zero, eps=0.0)
    paper = LayerNorm(4).double()(constant).detach()
    check.figure("seed on the constant row (3, 3, 3, 3)", seed)
    check.figure("with ε = 1e-5", paper)
    check.claim(
        "the seed document's form is 0/0 on a constant row, the published one gives β",
        seed.isnan().all() and (paper == 0).all(),
    )
    error = (layer_norm_reference(x, one, zero) - LayerNorm(4).double()(x)).abs().max()
    check.figure("equation against the module, largest error", error)
    check.claim("the module is the published equation", error < 1e-12)
    ratio = (x.std(correction=1) / x.std(correction=0)).item()
    check.figure("sample σ over population σ at d = 4", ratio)
    check.claim("dividing by d − 1 would be √(4/3) apart", abs(ratio - (4 / 3) ** 0.5) < 1e-12)


@formula(
    "positions",
    "Positional encoding",
    Seed(
        "003",
        "Transformers (2017)",
        "o uso de embeddings posicionais, que adicionam informações sobre a ordem dos elementos "
        "da sequência, algo que as RNNs capturam de forma nativa, mas que o Transformer precisa compensar",
        kind="words",
    ),
    verdict="right",
    published=r"PE_{(pos,2i)} = \sin(pos/10000^{2i/d}),\quad PE_{(pos,2i+1)} = \cos(pos/10000^{2i/d})",
    source="Vaswani et al. 2017, arXiv:1706.03762, §3.5; rotary: Su et al. 2021, arXiv:2104.09864",
    remarks="Said in words, and right: self-attention alone treats its input as a set.",
    variants={
        "paper": "sines and cosines, added",
        "learned": "a table, added",
        "rope": "queries and keys turned",
    },
    default="paper",
    units="positions 0, 1, 2 … (tokens) → (T, d_model) in [−1, 1]",
    where="oliveira.nn.positional",
)
def check_positions(check: Check) -> None:
    import torch

    from oliveira.nn.attention import MultiHeadAttention
    from oliveira.nn.positional import Sinusoidal

    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(8, 2), torch.randn(1, 6, 8)
    torch.random.set_rng_state(torch_state)
    order, table = torch.tensor([3, 0, 5, 1, 4, 2]), Sinusoidal(6, 8)(torch.arange(6))
    with torch.no_grad():
        without = (layer(x[:, order]) - layer(x)[:, order]).abs().max()
        with_positions = (layer(x[:, order] + table) - layer(x + table)[:, order]).abs().max()
    check.figure("shuffled input against shuffled output, no positions", without)
    check.figure("the same with positions", with_positions)
    check.claim("without positions the order cannot be seen", without < 1e-6)
    check.claim("with positions it can", with_positions > 1e-3)
    expected = torch.tensor([torch.tensor(3.0).sin(), torch.tensor(3.0).cos(), torch.tensor(0.3).sin()])
    check.claim(
        "the table is the equation (position 3, first three columns)",
        torch.allclose(table[3, :3], expected, atol=1e-6),
    )
