"""Weights of transformers' BERT under the names of `oliveira.models.bert`, from a module or from its two files.

Covered: BertForPreTraining, BertForSequenceClassification, BertForTokenClassification; of these, of BertModel and of
its other heads also the encoder alone, for a fresh head: only a head that a fresh one replaces is left out. RoBERTa and
its kin (XLM-R, CamemBERT, Data2Vec) have BERT's names and count their positions otherwise: refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from oliveira.convert.base import Converted, Pair, Reference, explained, first_steps, need, read, tokens
from oliveira.convert.reference import Options
from oliveira.errors import UserError
from oliveira.models.bert import BERT, BERTConfig

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
    "model_type": "bert",
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_HEADS = ("cls.", "classifier.")
_WITH_HEAD = ("BertForPreTraining", "BertForSequenceClassification", "BertForTokenClassification")
_ENCODER = ("BertModel", "BertForMaskedLM", "BertForNextSentencePrediction", "BertForMultipleChoice")
# Of the hub's files, read by no BERT of transformers.
_OF_FILES = ("directionality", "output_past", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
             "pooler_size_per_head", "pooler_type")  # fmt: skip


def to_bert(module: Any, *, gives: Literal["steps", "one"] | None = None, d_out: int = 0) -> BERT:
    """A copy of a transformers `BertForPreTraining`, `BertForSequenceClassification`, `BertForTokenClassification` or
    `BertModel`, in `eval` mode. With `gives` and `d_out`, a fresh head of that kind stands on its encoder: what
    fine-tuning starts from, and the only way for a `BertModel`, which has no head.

    Raises `UserError` for what `BERT` does not have.
    """
    kinds = _WITH_HEAD if gives is None else (*_WITH_HEAD, *_ENCODER)
    if gives is None and type(module).__name__ in _ENCODER:
        raise UserError(
            f"a {type(module).__name__} has no head that a BERT has (seq_relationship, or a classifier). Give one of "
            f"{', '.join(_WITH_HEAD)}, or name the fresh head: gives='one' or 'steps', and d_out."
        )
    converted = read(module, "BERT", dict.fromkeys(kinds, partial(_bert, gives=gives, d_out=d_out)))
    return converted.build(BERT, BERTConfig)


def bert_from_weights(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    *,
    gives: Literal["steps", "one"] | None = None,
    d_out: int = 0,
) -> BERT:
    """As `to_bert`, from what stands in a config.json and a model.safetensors of transformers' BERT."""
    with explained("config.json and its weights", "BERT"):
        theirs = Reference(None)
        theirs.kind, theirs.weights, theirs.config = "BERT", dict(weights), Options.of_file(config)
        theirs.config.ignore(*_OF_FILES)
        converted = _bert(theirs, gives=gives, d_out=d_out)
        theirs.close()
    converted.kind, converted.wanted, converted.trial = "BERT", "BERT", None  # a file computes nothing
    return converted.build(BERT, BERTConfig)


def _bert(theirs: Reference, *, gives: str | None, d_out: int) -> Converted:
    config = theirs.config
    for name, value in _COVERED.items():
        if config.get(name, value) != value:
            need(config, name, value)
    theirs.weights = {name.removeprefix("bert."): tensor for name, tensor in theirs.weights.items()}
    counted = theirs.weights.pop("embeddings.position_ids", None)  # 0, 1, 2 …: kept by old versions
    if counted is not None and not torch.equal(counted.flatten().long(), torch.arange(counted.numel())):
        raise UserError("embeddings.position_ids of this BERT do not count from 0. Only such can be converted.")
    state: dict[str, Tensor] = {}
    _read(theirs, state, gives)
    if gives is not None:
        theirs.drop(*[name for name in theirs.weights if name.startswith((*_HEADS, "pooler."))])
    kept = "mlm+nsp" if "mlm.dense.weight" in state else "one" if "pooler.weight" in state else "steps"
    head = state.get("head.weight")
    sizes = {
        "vocab_size": config.vocab_size,
        "d_out": d_out if head is None else 0 if kept == "mlm+nsp" else len(head),
        "max_len": config.max_position_embeddings,
        "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "d_ff": config.intermediate_size,
        "dropout": 0.0,
        "norm_eps": config.get("layer_norm_eps", 1e-12),
    }
    fresh = () if gives is None else ("head.",) if "pooler.weight" in state else ("head.", "pooler.")
    return Converted(
        config=sizes, gives=gives or kept, state=state, fresh=fresh, trial=_outputs if gives is None else _states
    )


def _read(theirs: Reference, state: dict[str, Tensor], gives: str | None) -> None:
    ends = {
        "word_embeddings": "embedding",
        "position_embeddings": "positions.table",
        "token_type_embeddings": "segments",
        "LayerNorm": "norm",
    }
    theirs.move(ends, state, "embeddings.")
    for i in range(theirs.config.num_hidden_layers):
        theirs.move(_LAYER, state, f"encoder.layer.{i}.", f"blocks.{i}.")
    if gives != "steps" and "pooler.dense.weight" in theirs.weights:
        theirs.move({"pooler.dense": "pooler"}, state)
    if gives is not None:
        return
    if "classifier.weight" in theirs.weights:
        theirs.move({"classifier": "head"}, state)
        return
    heads = {"seq_relationship": "head", "predictions.transform.dense": "mlm.dense"}
    theirs.move({**heads, "predictions.transform.LayerNorm": "mlm.norm"}, state, "cls.")
    state["mlm.words.weight"] = theirs.weights.pop("cls.predictions.decoder.weight", state["embedding.weight"])
    state["mlm.words.bias"] = theirs.take("cls.predictions.bias")
    twin = theirs.weights.pop("cls.predictions.decoder.bias", state["mlm.words.bias"])  # one bias under two names
    for name, mine, other in (
        ("decoder.weight", state["mlm.words.weight"], state["embedding.weight"]),
        ("decoder.bias", state["mlm.words.bias"], twin),
    ):
        if not torch.equal(mine, other):
            raise UserError(f"{name} of this BERT is not tied. Only tied output weights can be converted.")


def _states(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """What stands below a head, of two texts of two sentences, the shorter padded."""
    length = min(ours.config.max_len, 7)
    batch, real = tokens(2, ours.config.vocab_size, length, random), first_steps(length, (length + 1) // 2)
    segments = tokens(2, 2, length, random)
    given = dict(input_ids=batch, attention_mask=real.long(), token_type_ids=segments)
    encoder = getattr(theirs, "bert", theirs)
    mine, found = ours.features(batch, real, segments), encoder(**given)
    yield Pair("states", mine[real], found[0][real])
    if ours.pooler is not None and encoder.pooler is not None:
        yield Pair("pooled states", torch.tanh(ours.pooler(mine[:, 0])), found[1])


def _outputs(ours: Any, theirs: Any, random: torch.Generator) -> Iterator[Pair]:
    """The states, and what the heads make of other ones."""
    yield from _states(ours, theirs, random)
    batch = tokens(2, ours.config.vocab_size, min(ours.config.max_len, 5), random)
    mine, found = ours(batch), theirs(input_ids=batch)
    if ours.mlm is None:
        yield Pair("logits", mine, found[0])
    else:
        yield Pair("words", mine.mlm, found[0])
        yield Pair("sentences", mine.nsp, found[1])
