"""Weights of other libraries' long-sequence models under the names of this house.

Covered: linformer.LinformerLM; transformers ReformerModelWithLMHead and BigBirdForMaskedLM. Each function gives the
config and the state of a `Linformer`, `Reformer` or `BigBird`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from oliveira.convert.base import Converted, Pair, Reference, first_steps, need, read, tokens
from oliveira.errors import UserError
from oliveira.models.bigbird import BigBird, BigBirdConfig
from oliveira.models.linformer import Linformer, LinformerConfig
from oliveira.models.reformer import Reformer, ReformerConfig


def to_linformer(module: nn.Module) -> Linformer:
    """A copy of a `linformer.LinformerLM`, in `eval` mode.

    Raises `UserError` when `module` is of another kind or uses what `Linformer` does not have.
    """
    return read(module, "Linformer", {"LinformerLM": _linformer}).build(Linformer, LinformerConfig)


def to_bigbird(module: nn.Module) -> BigBird:
    """A copy of a transformers `BigBirdForMaskedLM`, in `eval` mode. Errors as of `to_linformer`."""
    return read(module, "BigBird", {"BigBirdForMaskedLM": _bigbird}).build(BigBird, BigBirdConfig)


def to_reformer(module: nn.Module) -> Reformer:
    """A copy of a transformers `ReformerModelWithLMHead`, in `eval` mode, with the hashes of its `hash_seed`.

    Errors as of `to_linformer`.
    """
    return read(module, "Reformer", {"ReformerModelWithLMHead": _reformer}).build(Reformer, ReformerConfig)


def _linformer(theirs: Reference) -> Converted:
    """E and F are one pair a layer there, so sharing = "headwise"."""
    module = theirs.module
    layers: Any = getattr(module.linformer.net, "layers", None)
    if layers is None:
        raise UserError("a reversible LinformerLM is not covered. Build it with reversible=False.")
    first, feed_forward = layers[0][0].fn, layers[0][1].fn
    vocab_size, d_model = module.token_emb.weight.shape
    if first.share_kv:
        raise UserError("share_kv = True makes the values the keys, which is not in the paper. Use share_kv=False.")
    if first.to_q.out_features != d_model or first.to_k.out_features != d_model:
        raise UserError("one_kv_head and dim_head are not covered. Leave them at their defaults.")
    if feed_forward.glu or not isinstance(feed_forward.act, nn.GELU):
        raise UserError("only a feed-forward net with a plain GELU can be converted.")
    theirs.twin = lambda: type(module)(vocab_size, d_model, first.seq_len, len(layers), k=first.k, heads=first.heads)
    state: dict[str, Tensor] = {}
    theirs.move({"token_emb": "input.embedding", "pos_emb": "positions.table", "to_logits": "output.project"}, state)
    names = {
        "0.fn.to_q": "attention.query",
        "0.fn.to_k": "attention.key",
        "0.fn.to_v": "attention.value",
        "0.fn.to_out": "attention.output",
        "0.norm": "attention_norm",
        "1.fn.w1": "feed_forward.up",
        "1.fn.w2": "feed_forward.down",
        "1.norm": "feed_forward_norm",
    }
    for i in range(len(layers)):
        source, target = f"linformer.net.layers.{i}.", f"blocks.{i}."
        theirs.move(names, state, source, target)
        for name, ours in (("proj_k", "key_mix"), ("proj_v", "value_mix")):
            state[f"{target}attention.{ours}"] = theirs.take(f"{source}0.fn.{name}").T
    sizes = {
        "vocab_size": vocab_size,
        "d_out": vocab_size,
        "max_len": first.seq_len,
        "d_model": d_model,
        "n_layers": len(layers),
        "n_heads": first.heads,
        "d_ff": feed_forward.w1.out_features,
        "projected_len": first.k,
        "sharing": "headwise",
    }
    return Converted(config=sizes, state=state, trial=_whole_texts)


def _whole_texts(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """The package takes no mask: a padded row is a shorter one."""
    length = min(ours.config.max_len, 7)
    batch, real = tokens(2, ours.config.vocab_size, length, random), first_steps(length, (length + 1) // 2)
    got = ours(batch, real)
    for row in range(2):
        yield Pair("logits", got[row][real[row]], theirs(batch[row : row + 1, real[row]])[0])


def _bigbird(theirs: Reference) -> Converted:
    """With the blocks that it attends to at evaluation, the first one always, and its full attention of short texts."""
    config, module = theirs.config, theirs.module
    need(config, "hidden_act", "gelu_new", "gelu_pytorch_tanh")
    need(config, "use_bias", True)
    need(config, "rescale_embeddings", False)
    need(config, "is_decoder", False)
    need(config, "add_cross_attention", False)
    config.ignore("attention_type", "tie_word_embeddings")
    kind, n_random, block_size = module.bert.attention_type, config.num_random_blocks, config.block_size
    as_made = theirs.twin
    assert as_made is not None

    def twin() -> Any:  # a reference that has read a short text has gone over to full attention for good
        made: Any = as_made()
        made.bert.set_attention_type(kind)
        return made

    theirs.twin = twin
    embeddings, head = "bert.embeddings.", "cls.predictions."
    state: dict[str, Tensor] = {}
    ends = {
        f"{embeddings}word_embeddings": "input.embedding",
        f"{embeddings}position_embeddings": "positions.table",
        f"{embeddings}LayerNorm": "input_norm",
        f"{head}transform.dense": "head.0",
        f"{head}transform.LayerNorm": "head.2",
        f"{head}decoder": "output.project",
    }
    theirs.move(ends, state)
    theirs.drop(f"{head}bias")  # the decoder's own is added
    theirs.drop("bert.pooler.weight", "bert.pooler.bias")  # of a classifier
    # One text has one token type.
    types = theirs.take(f"{embeddings}token_type_embeddings.weight")
    state["positions.table.weight"] = state["positions.table.weight"] + types[0]
    config.ignore("type_vocab_size")
    names = {
        "attention.self.query": "attention.query",
        "attention.self.key": "attention.key",
        "attention.self.value": "attention.value",
        "attention.output.dense": "attention.output",
        "attention.output.LayerNorm": "attention_norm",
        "intermediate.dense": "feed_forward.up",
        "output.dense": "feed_forward.down",
        "output.LayerNorm": "feed_forward_norm",
    }
    sparse = kind == "block_sparse"
    n_blocks = -(-config.max_position_embeddings // block_size)
    for i in range(config.num_hidden_layers):
        theirs.move(names, state, f"bert.encoder.layer.{i}.", f"blocks.{i}.")
        if sparse:
            state[f"blocks.{i}.attention.random"] = torch.zeros(
                config.num_attention_heads, n_blocks, n_random, dtype=torch.int64
            )
    sizes = {
        "vocab_size": config.vocab_size,
        "d_out": config.vocab_size,
        "max_len": config.max_position_embeddings,
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "d_ff": config.intermediate_size,
        "attention": "sparse" if sparse else "full",
        "block_size": block_size,
        "n_random": n_random,
        "n_global": 2,
        "full_up_to": (5 + 2 * n_random) * block_size if sparse else 0,
        "norm_eps": config.layer_norm_eps,
    }
    return Converted(config=sizes, state=state, trial=_long_and_short)


def _long_and_short(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """Long texts first: after a short one the reference would attend in full to these too."""
    sizes = ours.config
    block, length = sizes.block_size, sizes.full_up_to + max(1, sizes.block_size - 1)
    pairs = [(7, 4)] if sizes.max_len >= 7 else [(1, 1)]
    if sizes.full_up_to and -(-length // block) * block <= sizes.max_len:
        pairs.insert(0, (length, sizes.full_up_to + 1))  # both end in the last block, which is global
    for lengths in pairs:
        batch, real = tokens(2, sizes.vocab_size, max(lengths), random), first_steps(*lengths)
        expected = theirs(input_ids=batch, attention_mask=real.long())[0]
        yield Pair(f"logits of {max(lengths)} steps", ours(batch, real)[real], expected[real])


_SEED = 0  # of a reference without one, which hashes anew at each call


def _reformer(theirs: Reference) -> Converted:
    """With a `hash_seed`, every layer hashes by the same rotations."""
    config = theirs.config
    width, n_heads, n_layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    need(config, "is_decoder", True)
    need(config, "axial_pos_embds", False)
    config.ignore("axial_norm_std", "axial_pos_shape", "axial_pos_embds_dim", "hash_seed", "tie_word_embeddings")
    need(config, "hidden_act", "relu")
    need(config, "attention_head_size", width // n_heads)
    for kind in ("lsh", "local"):
        need(config, f"{kind}_num_chunks_before", 1)
        need(config, f"{kind}_num_chunks_after", 0)
    need(config, "local_attn_chunk_length", config.lsh_attn_chunk_length)
    kinds = list(config.attn_layers)
    turns = {
        "lsh": ["lsh"] * n_layers,
        "local": ["local"] * n_layers,
        "local-lsh": (["local", "lsh"] * n_layers)[:n_layers],
    }
    if kinds not in turns.values():
        raise UserError(f"attn_layers = {kinds} is not covered. Only lsh, local, or local and lsh in turn.")
    if "lsh" in kinds and not isinstance(config.num_buckets, int):
        raise UserError(f"num_buckets = {config.num_buckets!r} is not covered. Give one even number.")
    state: dict[str, Tensor] = {}
    outside = {
        "reformer.embeddings.word_embeddings": "input.embedding",
        "reformer.embeddings.position_embeddings.embedding": "positions.table",
        "reformer.encoder.layer_norm": "norm",
        "lm_head.decoder": "output.project",
    }
    theirs.move(outside, state)
    # The decoder adds its own bias (transformers ≥ 5.24) or none; `lm_head.bias` is not added by any.
    state.setdefault("output.project.bias", torch.zeros_like(theirs.take("lm_head.bias")))
    theirs.drop("lm_head.bias")
    names = {
        "attention.layer_norm": "f.norm",
        "attention.output.dense": "f.attention.output",
        "feed_forward.layer_norm": "g.0",
        "feed_forward.dense.dense": "g.1.up",
        "feed_forward.output.dense": "g.1.down",
    }
    projections = {"lsh": ("query_key", "value"), "local": ("query", "key", "value")}
    for i, kind in enumerate(kinds):
        inner = {f"attention.self_attention.{name}": f"f.attention.{name}" for name in projections[kind]}
        theirs.move({**names, **inner}, state, f"reformer.encoder.layers.{i}.", f"blocks.{i}.")
        if kind == "lsh":
            dtype = state["input.embedding.weight"].dtype
            state[f"blocks.{i}.f.attention.rotations"] = _rotations(config, config.hash_seed, dtype)
    sizes = {
        "vocab_size": config.vocab_size,
        "d_out": config.vocab_size,
        "max_len": config.max_position_embeddings,
        "d_model": width,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "d_ff": config.feed_forward_size,
        "attention": next(name for name, turn in turns.items() if turn == kinds),
        "chunk_len": config.lsh_attn_chunk_length,
        "n_hashes": config.num_hashes,
        "n_buckets": config.num_buckets or 0,
        "across_rounds": True,
        "strict": False,
        "norm_eps": config.layer_norm_eps,
    }
    return Converted(config=sizes, state=state, trial=_hashed)


def _rotations(config: Any, seed: int | None, dtype: torch.dtype) -> Tensor:
    """What the reference draws at each call, in its own dtype: (rounds, H, K, buckets / 2)."""
    n_heads = config.num_attention_heads
    random = torch.Generator().manual_seed(_SEED if seed is None else seed)
    shape = n_heads, config.hidden_size // n_heads, config.num_hashes, config.num_buckets // 2
    return torch.randn(shape, generator=random, dtype=dtype).permute(2, 0, 1, 3)


def _hashed(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """Two chunks and a bit, one row padded; both sides hash by one seed, drawn in the dtype of this trial."""
    sizes, config, dtype = ours.config, theirs.config, next(ours.parameters()).dtype
    for block, layer in zip(ours.blocks, theirs.reformer.encoder.layers, strict=True):
        if hasattr(block.f.attention, "rotations"):
            layer.attention.self_attention.hash_seed = _SEED if config.hash_seed is None else config.hash_seed
            block.f.attention.rotations = _rotations(config, config.hash_seed, dtype)
    for part in theirs.modules():  # in a reference of half precision they have become infinite
        for name, value in (("mask_value_float32", -1e9), ("self_mask_value_float32", -1e5)):
            if name in part._buffers:
                part._buffers[name] = torch.tensor(value)
    room = sizes.max_len // sizes.chunk_len * sizes.chunk_len  # the reference fills up the last chunk
    length = min(2 * sizes.chunk_len + 3, room or sizes.max_len)
    batch, real = tokens(2, sizes.vocab_size, length, random), first_steps(length, (length + 1) // 2)
    expected = theirs(input_ids=batch, attention_mask=real.long())[0]
    yield Pair("logits", ours(batch, real)[real], expected[real])
