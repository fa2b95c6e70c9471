"""What the readers of transformers' decoders share: the trial, RoPE, layers of two kinds, the head.

Each reads a model's config or a config.json, today's names of RoPE's numbers (`rope_parameters`) or those of before
(`rope_theta`, `rope_scaling`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from oliveira.convert.base import Pair, Reference, first_steps, tokens
from oliveira.convert.reference import Options
from oliveira.errors import UserError
from oliveira.nn.positional import SCALINGS

_LONGEST_TRIAL = 64
GATED = {
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
}
ATTENTION = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output",
}


def whole_trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """Logits of two texts, longer than a small window."""
    batch = _batch(ours.config, random)
    yield Pair("logits", ours(batch), theirs(input_ids=batch)[0])


def _batch(config: Any, random: torch.Generator) -> Tensor:
    reach = config.window + 3 if config.window < _LONGEST_TRIAL else 0
    return tokens(2, config.vocab_size, min(config.max_len, max(7, reach)), random)


def causal_trial(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """The same, and of the same texts when the shorter is padded on the left."""
    batch = _batch(ours.config, random)
    length = batch.shape[1]
    yield Pair("logits", ours(batch), theirs(input_ids=batch)[0])
    real = first_steps(length, (length + 1) // 2).flip(1)
    positions = (real.cumsum(1) - 1).clamp(min=0)
    mask = torch.ones(length, length).tril().bool() & real[:, None, None, :] | torch.eye(length).bool()
    expected = theirs(input_ids=batch, attention_mask=real.long(), position_ids=positions)[0]
    yield Pair("logits of padded texts", ours(batch, positions=positions, mask=mask)[real], expected[real])


def plain_rope(config: Options) -> float:
    """The base of a RoPE that turns the whole head and scales nothing."""
    rope = dict(config.rope_parameters)
    kind, base = rope.pop("rope_type", "default"), rope.pop("rope_theta")
    if rope.get("partial_rotary_factor") == 1.0:
        del rope["partial_rotary_factor"]
    if kind != "default" or rope:
        more = "".join(f", {name} = {value!r}" for name, value in rope.items())
        raise UserError(f"rope_type = {kind!r}{more} is not covered. Only plain 'default' can be converted.")
    return float(base)


def rope_fields(
    config: Options, given: Mapping[str, Any] | None = None, *, base: float = 10_000.0, share: float | None = None
) -> dict[str, Any]:
    """`rope_base`, `rope_scaling` and `rotary_share` of our config.

    `given`: the numbers, None = of the whole config. `base`: where none is given. `share` of a head that turns where
    the config leaves it out; None: this kind turns whole heads.
    """
    outer = config.get("rope_theta", base), config.get("rope_scaling", {}), config.get("partial_rotary_factor", share)
    numbers = dict(config.get("rope_parameters", outer[1]) if given is None else given)
    kind = numbers.pop("rope_type", None) or numbers.get("type") or "default"
    numbers.pop("type", None)
    fields: dict[str, Any] = {"rope_base": float(numbers.pop("rope_theta", None) or outer[0])}
    turned = numbers.pop("partial_rotary_factor", None)
    turned = outer[2] if turned is None else turned
    if share is None and turned not in (None, 1.0):
        raise UserError(f"partial_rotary_factor = {turned!r} is not covered. Only 1.0 can be converted.")
    if share is not None:
        fields["rotary_share"] = float(turned)
    numbers = {name: value for name, value in numbers.items() if value is not None}
    first = config.get("original_max_position_embeddings", None)
    if kind == "default":
        numbers.pop("factor", None), numbers.pop("original_max_position_embeddings", None)
        if numbers:
            raise UserError(f"rope_type = 'default' with {min(numbers)} is not covered. Give its rope_type.")
        return fields
    if kind not in SCALINGS:
        raise UserError(f"rope_type = {kind!r} is not covered. Only default, {', '.join(SCALINGS)} can be converted.")
    if kind != "linear":
        length = config.max_position_embeddings
        first = first or numbers.get("original_max_position_embeddings", length)
        numbers["original_max_position_embeddings"] = first
        numbers.setdefault("factor", length / first)
    return fields | {"rope_scaling": {"type": kind, **numbers}}


def every(chosen: Sequence[bool]) -> int | None:
    """n if every n-th layer is chosen and no other, 0 if none is, None if they stand otherwise."""
    if True not in chosen:
        return 0
    n = chosen.index(True) + 1
    return n if all(one == ((i + 1) % n == 0) for i, one in enumerate(chosen)) else None


def window_fields(config: Options, window: int | None, kinds: Sequence[str]) -> dict[str, Any]:
    """`window` and `full_every`. `kinds`: of the layers, where the config does not name them."""
    kinds = list(config.get("layer_types", kinds))[: config.num_hidden_layers]
    if other := set(kinds) - {"full_attention", "sliding_attention"}:
        raise UserError(f"layer_types has {min(other)!r}. Only full_attention and sliding_attention can be converted.")
    if "sliding_attention" not in kinds:
        return {}
    if not window:
        raise UserError(f"sliding_window = {window!r} is not covered, where layer_types has sliding_attention.")
    full = every([kind == "full_attention" for kind in kinds])
    if full is None or len(kinds) < config.num_hidden_layers:
        raise UserError(
            "layer_types is not covered. Only a window in all layers, or in all but every n-th, can be converted."
        )
    return {"window": window, "full_every": full}


def head(theirs: Reference, state: dict[str, Tensor], name: str = "lm_head", *, tied: bool = False) -> bool:
    """Takes the head; whether it is the embedding itself, whatever the config says.

    `tied`: as this kind is where its config does not say so. A file keeps a tied head once.
    """
    tied = theirs.config.get("tie_word_embeddings", tied)
    embedding = state["embedding.weight"]
    if tied and f"{name}.weight" not in theirs.weights:
        state["head.weight"] = embedding
        return True
    state["head.weight"] = found = theirs.take(f"{name}.weight")
    same = found.data_ptr() == embedding.data_ptr()
    return same or (tied and found.shape == embedding.shape and torch.equal(found, embedding))
