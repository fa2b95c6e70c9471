"""Mixture-of-experts transformer: causal, and every token chooses a few of many feed-forward networks.
It has the parameters of a wide model at about the cost of a narrow one, because each token uses only `top_k` experts.

Papers: Shazeer et al. 2017, arXiv:1701.06538; Switch, arXiv:2101.03961; Mixtral, arXiv:2401.04088;
sparse upcycling of a dense model: Komatsuzaki et al. 2022, arXiv:2212.05055.

    x ← x + Attention(Norm(x));  x ← x + Σ_{i ∈ top-k} g_i E_i(Norm(x))          (each layer; nn/moe.py)
    y = W_out Norm(x) + b
    auxiliary loss = balance_weight · mean over layers of E Σ_i f_i P_i + z_weight · mean of the router z-loss
                     (balance = "pooled": f and P over the tokens of all layers, E Σ_i f_i P_i once, as transformers)

Shapes: tokens (B, T) int64 or series (B, T, d_in) → (B, T, d_out), or (B, d_out).
Deviations from the paper: the head has a bias (zero after conversion); f_i is the share of all k assignments, so the
balance loss is 1 when even for any k; padded tokens count in no loss; no capacity, no token is dropped.
Complexity: O(L·(T²·D + k·T·D·d_ff)) time, O(L·E·D·d_ff) parameters.
Checked against: transformers MixtralForCausalLM, logits, gradients and balance loss to 1e-5 (tests/parity/test_moe.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.kinds import CAUSAL_SEQUENCE
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.nn.attention import MultiHeadAttention, check_heads
from oliveira.nn.ends import Input, Output, SequenceConfig
from oliveira.nn.feedforward import SwiGLU
from oliveira.nn.masking import causal_keys
from oliveira.nn.moe import MixtureOfExperts, Routing, balance_loss, expert_load, pooled, z_loss
from oliveira.nn.norm import RMSNorm
from oliveira.nn.positional import Rotary
from oliveira.registry import register, stored_config


@dataclass(frozen=True, kw_only=True)
class MoEConfig(SequenceConfig):
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 4  # fewer than n_heads: grouped queries
    d_ff: int = 192  # of one expert
    n_experts: int = 8
    top_k: int = 2
    renormalise: bool = True  # the top-k weights sum to 1 (Mixtral); False: raw probabilities (Switch)
    dropout: float = 0.0
    balance_weight: float = 0.01
    balance: Literal["layers", "pooled"] = "layers"  # of each layer, averaged; or (transformers) of all tokens of all
    z_weight: float = 0.001
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.d_model, self.n_heads, self.n_kv_heads, rotated=True)
        if not 1 <= self.top_k <= self.n_experts:
            raise ValueError(f"top_k = {self.top_k} does not fit n_experts = {self.n_experts}. Use top_k = 1 or 2.")


class Block(nn.Module):
    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = MultiHeadAttention(config.d_model, config.n_heads, config.n_kv_heads, dropout=config.dropout)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixture = MixtureOfExperts(
            (SwiGLU(config.d_model, config.d_ff) for _ in range(config.n_experts)),
            config.d_model,
            config.top_k,
            renormalise=config.renormalise,
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Routing]:
        attended = self.attention(self.attention_norm(x_BTD), mask=mask, causal=True, rotation=rotation)
        x_BTD = x_BTD + self.dropout(attended)
        mixed, routing = self.mixture.routed(self.feed_forward_norm(x_BTD))
        return x_BTD + self.dropout(mixed), routing


@register(
    "moe",
    family="transformer",
    paper="arXiv:2401.04088",
    forms=CAUSAL_SEQUENCE,
    can=(
        "features",
        "auxiliary_loss",
    ),
    config=MoEConfig,
    causal=True,
    reference="transformers MixtralForCausalLM",
    # Two experts of two: with eighteen tokens a third might get none, and then no gradient.
    tiny=dict(d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=24, n_experts=2, top_k=2),
)
class MoE(nn.Module):
    def __init__(self, config: MoEConfig, gives: str = "steps") -> None:
        super().__init__()
        self.config, self.gives = config, gives
        self.input = Input(config, config.d_model)
        self.rotary = Rotary(config.max_len, config.d_model // config.n_heads, config.rope_base)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.output = Output(config, gives, config.d_model, pool="last")
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and not name.startswith("input.project"):
                # The residual stream keeps its scale: 1/√(2L), as in GPT-2 §2.3.
                inward = name.endswith(("attention.output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * config.n_layers) ** 0.5 if inward else 0.02)

    @classmethod
    def upcycle(cls, gpt: GPT, *, n_experts: int = 4, top_k: int = 2, **config: Any) -> MoE:
        """A dense `GPT` in Llama form becomes a mixture: its feed-forward copied into every expert, routers random.

        It computes what the dense one did, because equal experts with weights that sum to 1 answer alike; training
        then drives them apart. A tied head becomes a copy of the embedding. `config`: other fields of `MoEConfig`.
        Raises `UserError` for a GPT of another form, naming the field.
        """
        dense = gpt.config
        form: dict[str, Any] = dict(norm="rmsnorm", feed_forward="swiglu", positions="rope", bias=False)
        plain = GPTConfig(vocab_size=1)
        newer = stored_config(dense).keys() - stored_config(plain).keys()
        form |= {name: getattr(plain, name) for name in sorted(newer)}
        for name, wanted in form.items():
            if getattr(dense, name) != wanted:
                raise UserError(
                    f"a GPT with {name} = {getattr(dense, name)!r} cannot be upcycled. Only the Llama form can: "
                    f"{name} = {wanted!r}."
                )
        same = (
            "vocab_size",
            "d_model",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "d_ff",
            "max_len",
            "norm_eps",
            "rope_base",
        )
        sizes = {name: getattr(dense, name) for name in same} | dict(d_out=dense.vocab_size, dropout=dense.dropout)
        model = cls(MoEConfig(**{**sizes, "n_experts": n_experts, "top_k": top_k, **config}))
        with torch.no_grad():
            model.input.embedding.weight.copy_(gpt.embedding.weight)  # type: ignore[union-attr]
            model.norm.load_state_dict(gpt.norm.state_dict())
            model.output.project.weight.copy_(gpt.head.weight)
            model.output.project.bias.zero_()
            pairs: Any = zip(model.blocks, gpt.blocks, strict=True)
            for ours, theirs in pairs:
                for part in ("attention_norm", "attention", "feed_forward_norm"):
                    getattr(ours, part).load_state_dict(getattr(theirs, part).state_dict())
                for expert in ours.mixture.experts:
                    expert.load_state_dict(theirs.feed_forward.state_dict())
        return model

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.output(self._run(x, mask)[0], mask)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The normalised states of the last layer: (B, T, d_model)."""
        return self._run(x, mask)[0]

    def forward_with_auxiliary(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output, and the weighted balance and router losses to add to the task's."""
        states, routings = self._run(x, mask)
        real = None if mask is None else mask.flatten()
        if self.config.balance == "pooled":
            balance = balance_loss(pooled(routings), None if real is None else real.repeat(len(routings)))
        else:
            balance = torch.stack([balance_loss(routing, real) for routing in routings]).mean()
        z = torch.stack([z_loss(routing, real) for routing in routings]).mean()
        return self.output(states, mask), self.config.balance_weight * balance + self.config.z_weight * z

    @torch.no_grad()
    def expert_load(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n_layers, n_experts): the share of the assignments that each expert of each layer gets."""
        real = None if mask is None else mask.flatten()
        return torch.stack([expert_load(routing, real) for routing in self._run(x, mask)[1]])

    def _run(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Routing]]:
        h_BTD = self.dropout(self.input(x))
        rotation = self.rotary(torch.arange(x.shape[1], device=x.device))
        attend = None if mask is None else causal_keys(mask)
        routings = []
        for block in self.blocks:
            h_BTD, routing = block(h_BTD, attend, rotation)
            routings.append(routing)
        return self.norm(h_BTD), routings
