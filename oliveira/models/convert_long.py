"""Weights of other libraries' long-sequence models under the names of this house.

Each function reads a reference module and gives the config and the state of a `Linformer`, `Reformer` or `BigBird`. It
refuses, in one sentence, what that class does not compute, and when a weight is left over.

Covered: linformer.LinformerLM; transformers ReformerModelWithLMHead and BigBirdForMaskedLM.
Dropout is a choice of training, not of the weights: it becomes 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.models.convert import Converted, need


def _open(module: nn.Module, wanted: str) -> dict[str, Tensor]:
    kind = type(module).__name__
    if kind != wanted:
        raise UserError(f"a {kind} cannot be read here. Give a {wanted}.")
    return dict(module.state_dict())


def _closed(
    module: nn.Module, theirs: dict[str, Tensor], config: dict[str, Any], state: dict[str, Tensor]
) -> Converted:
    if theirs:
        raise UserError(
            f"{type(module).__name__} has weights that have no place here: {', '.join(sorted(theirs)[:3])}."
        )
    return Converted(config, state)


def _move(theirs: dict[str, Tensor], names: dict[str, str], state: dict[str, Tensor], source: str, target: str) -> None:
    """Whole layers, weight and bias where there is one."""
    for theirs_name, ours in names.items():
        for part in ("weight", "bias"):
            if f"{source}{theirs_name}.{part}" in theirs:
                state[f"{target}{ours}.{part}"] = theirs.pop(f"{source}{theirs_name}.{part}")


def linformer_weights(module: nn.Module) -> Converted:
    """From a `linformer.LinformerLM`: E and F are one pair a layer there, so sharing = "headwise"."""
    theirs = _open(module, "LinformerLM")
    layers: Any = getattr(module.linformer.net, "layers", None)  # type: ignore[union-attr]
    if layers is None:
        raise UserError("a reversible LinformerLM is not covered. Build it with reversible=False.")
    first, feed_forward = layers[0][0].fn, layers[0][1].fn
    d_model = first.to_q.in_features
    if first.share_kv:
        raise UserError("share_kv = True makes the values the keys, which is not in the paper. Use share_kv=False.")
    if first.to_q.out_features != d_model or first.to_k.out_features != d_model:
        raise UserError("one_kv_head and dim_head are not covered. Leave them at their defaults.")
    if feed_forward.glu or not isinstance(feed_forward.act, nn.GELU):
        raise UserError("only a feed-forward net with a plain GELU can be converted.")
    state: dict[str, Tensor] = {}
    _move(
        theirs,
        {"token_emb": "input.embedding", "pos_emb": "positions.table", "to_logits": "output.project"},
        state,
        "",
        "",
    )
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
        _move(theirs, names, state, source, target)
        for theirs_name, ours in (("proj_k", "key_mix"), ("proj_v", "value_mix")):
            state[f"{target}attention.{ours}"] = theirs.pop(f"{source}0.fn.{theirs_name}").T
    vocab_size, _ = state["input.embedding.weight"].shape
    return _closed(
        module,
        theirs,
        {
            "vocab_size": vocab_size,
            "d_out": vocab_size,
            "max_len": first.seq_len,
            "d_model": d_model,
            "n_layers": len(layers),
            "n_heads": first.heads,
            "d_ff": feed_forward.w1.out_features,
            "projected_len": first.k,
            "sharing": "headwise",
        },
        state,
    )


def bigbird_weights(module: nn.Module) -> Converted:
    """From a transformers `BigBirdForMaskedLM`, with the blocks that it attends to at evaluation: the first, always."""
    theirs = _open(module, "BigBirdForMaskedLM")
    config: Any = module.config
    need(config, "hidden_act", "gelu_new", "gelu_pytorch_tanh")
    need(config, "use_bias", True)
    need(config, "rescale_embeddings", False)
    need(config, "is_decoder", False)
    width, n_heads = config.hidden_size, config.num_attention_heads
    embeddings, head = "bert.embeddings.", "cls.predictions."
    state: dict[str, Tensor] = {}
    _move(
        theirs,
        {
            f"{embeddings}word_embeddings": "input.embedding",
            f"{embeddings}position_embeddings": "positions.table",
            f"{embeddings}LayerNorm": "input_norm",
            f"{head}transform.dense": "head.0",
            f"{head}transform.LayerNorm": "head.2",
            f"{head}decoder": "output.project",
        },
        state,
        "",
        "",
    )
    theirs.pop(f"{head}bias")  # the bias of the decoder once more
    theirs.pop("bert.pooler.weight", None)  # of the classifier, no part of the masked language model
    theirs.pop("bert.pooler.bias", None)
    # One text has one token type.
    state["positions.table.weight"] = (
        state["positions.table.weight"] + theirs.pop(f"{embeddings}token_type_embeddings.weight")[0]
    )
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
    sparse = config.attention_type == "block_sparse"
    n_blocks = -(-config.max_position_embeddings // config.block_size)
    for i in range(config.num_hidden_layers):
        _move(theirs, names, state, f"bert.encoder.layer.{i}.", f"blocks.{i}.")
        if sparse:
            state[f"blocks.{i}.attention.random"] = torch.zeros(
                n_heads, n_blocks, config.num_random_blocks, dtype=torch.int64
            )
    return _closed(
        module,
        theirs,
        {
            "vocab_size": config.vocab_size,
            "d_out": config.vocab_size,
            "max_len": config.max_position_embeddings,
            "d_model": width,
            "n_layers": config.num_hidden_layers,
            "n_heads": n_heads,
            "d_ff": config.intermediate_size,
            "attention": "sparse" if sparse else "full",
            "block_size": config.block_size,
            "n_random": config.num_random_blocks,
            "n_global": 2,
            "norm_eps": config.layer_norm_eps,
        },
        state,
    )


def reformer_weights(module: nn.Module) -> Converted:
    """From a transformers `ReformerModelWithLMHead`. With a `hash_seed`, every layer hashes by the same rotations."""
    theirs = _open(module, "ReformerModelWithLMHead")
    config: Any = module.config
    width, n_heads, n_layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    need(config, "axial_pos_embds", False)
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
    _move(theirs, outside, state, "", "")
    state["output.project.bias"] = torch.zeros_like(theirs.pop("lm_head.bias"))  # the reference never adds it
    names = {
        "attention.layer_norm": "f.norm",
        "attention.self_attention.query_key": "f.attention.query_key",
        "attention.self_attention.query": "f.attention.query",
        "attention.self_attention.key": "f.attention.key",
        "attention.self_attention.value": "f.attention.value",
        "attention.output.dense": "f.attention.output",
        "feed_forward.layer_norm": "g.0",
        "feed_forward.dense.dense": "g.1.up",
        "feed_forward.output.dense": "g.1.down",
    }
    for i, kind in enumerate(kinds):
        _move(theirs, names, state, f"reformer.encoder.layers.{i}.", f"blocks.{i}.")
        if kind == "lsh":
            random = torch.Generator()
            if config.hash_seed is not None:
                random.manual_seed(config.hash_seed)
            shape = n_heads, width // n_heads, config.num_hashes, config.num_buckets // 2
            state[f"blocks.{i}.f.attention.rotations"] = torch.randn(
                shape, generator=random, dtype=next(module.parameters()).dtype
            ).permute(2, 0, 1, 3)
    return _closed(
        module,
        theirs,
        {
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
        },
        state,
    )
