"""Weights of transformers' BERT under the names of `oliveira.models.bert`, from a module or from its two files.

Covered: BertForPreTraining, BertForSequenceClassification, BertForTokenClassification; of these and of BertModel also
the encoder alone, for a fresh head. A converter refuses, in one sentence, what `BERT` does not compute, and when a
weight is left over: only a head that a fresh one replaces is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from oliveira.errors import UserError
from oliveira.models.convert import Converted

_LAYER = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "feed_forward.up",
    "output.dense": "feed_forward.down",
    "output.LayerNorm": "feed_forward_norm",
}
_COVERED: dict[str, Any] = {
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_HEADS = ("cls.", "classifier.")


def to_bert(config: Mapping[str, Any], weights: Mapping[str, Tensor], gives: str | None, d_out: int) -> Converted:
    """`gives` = None keeps the head that is there. Raises `UserError` for what `BERT` does not have."""
    for name, value in _COVERED.items():
        if config.get(name, value) != value:
            raise UserError(f"{name} = {config[name]!r} of this BERT is not covered. Only {value!r} can be converted.")
    theirs = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    theirs.pop("embeddings.position_ids", None)  # 0, 1, 2 …: kept by old versions
    state: dict[str, Tensor] = {}
    try:
        _read(config, theirs, state, gives)
    except KeyError as error:
        raise UserError(
            f"this BERT has no {error.args[0]}. Give a BertForPreTraining, BertForSequenceClassification or "
            "BertForTokenClassification, or name the fresh head: gives='one' or 'steps', and d_out."
        ) from None
    if gives is not None:
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith((*_HEADS, "pooler."))}
    if theirs:
        raise UserError(f"this BERT has weights that ours does not know: {', '.join(sorted(theirs)[:3])}.")
    kept = "mlm+nsp" if "mlm.dense.weight" in state else "one" if "pooler.weight" in state else "steps"
    head = state.get("head.weight")
    return Converted(
        {
            "vocab_size": config["vocab_size"],
            "gives": gives or kept,
            "d_out": d_out if head is None else 0 if kept == "mlm+nsp" else len(head),
            "max_len": config["max_position_embeddings"],
            "d_model": config["hidden_size"],
            "n_layers": config["num_hidden_layers"],
            "n_heads": config["num_attention_heads"],
            "d_ff": config["intermediate_size"],
            "dropout": 0.0,
            "norm_eps": config.get("layer_norm_eps", 1e-12),
        },
        state,
    )


def _read(config: Mapping[str, Any], theirs: dict[str, Tensor], state: dict[str, Tensor], gives: str | None) -> None:
    state["embedding.weight"] = theirs.pop("embeddings.word_embeddings.weight")
    state["positions.table.weight"] = theirs.pop("embeddings.position_embeddings.weight")
    state["segments.weight"] = theirs.pop("embeddings.token_type_embeddings.weight")
    _move(theirs, state, "embeddings.LayerNorm", "norm")
    for i in range(config["num_hidden_layers"]):
        for name, ours in _LAYER.items():
            _move(theirs, state, f"encoder.layer.{i}.{name}", f"blocks.{i}.{ours}")
    if gives != "steps" and "pooler.dense.weight" in theirs:
        _move(theirs, state, "pooler.dense", "pooler")
    if gives is not None:
        return
    if "classifier.weight" in theirs:
        _move(theirs, state, "classifier", "head")
        return
    _move(theirs, state, "cls.seq_relationship", "head")
    _move(theirs, state, "cls.predictions.transform.dense", "mlm.dense")
    _move(theirs, state, "cls.predictions.transform.LayerNorm", "mlm.norm")
    state["mlm.words.weight"] = theirs.pop("cls.predictions.decoder.weight", state["embedding.weight"])
    state["mlm.words.bias"] = theirs.pop("cls.predictions.bias")
    twin = theirs.pop("cls.predictions.decoder.bias", state["mlm.words.bias"])  # one bias under two names
    for name, mine, other in (
        ("decoder.weight", state["mlm.words.weight"], state["embedding.weight"]),
        ("decoder.bias", state["mlm.words.bias"], twin),
    ):
        if not torch.equal(mine, other):
            raise UserError(f"{name} of this BERT is not tied. Only tied output weights can be converted.")


def _move(theirs: dict[str, Tensor], state: dict[str, Tensor], name: str, ours: str) -> None:
    for part in ("weight", "bias"):
        state[f"{ours}.{part}"] = theirs.pop(f"{name}.{part}")
