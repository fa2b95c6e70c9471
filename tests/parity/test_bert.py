"""BERT against transformers: weights by the users' converter, outputs and gradients at the embeddings, to 1e-5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from oliveira.convert import from_reference
from oliveira.convert.bert import bert_from_weights
from oliveira.errors import UserError
from oliveira.models.bert import BERT, Pretraining

SIZES: dict[str, Any] = dict(
    vocab_size=29, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
    max_position_embeddings=16, num_labels=5,
)  # fmt: skip
KINDS: dict[str, type[nn.Module]] = {
    "pretraining": BertForPreTraining,
    "one": BertForSequenceClassification,
    "steps": BertForTokenClassification,
}


def reference(kind: type[nn.Module], **changes: Any) -> Any:
    """Every weight random, norms and biases too: a swapped pair would show."""
    torch.manual_seed(0)
    module = kind(BertConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def outputs(result: Any) -> list[Tensor]:
    """All tensors of a result of ours or of theirs."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Pretraining):
        return list(result)
    return (
        [result.prediction_logits, result.seq_relationship_logits] if "prediction_logits" in result else [result.logits]
    )


def run(module: nn.Module, embedding: nn.Embedding, *arguments: Any, **named: Any) -> list[Tensor]:
    """The outputs, and the gradient of a fixed direction of all of them at the embedded tokens."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = embedding.register_forward_hook(keep)
    found = outputs(module(*arguments, **named))
    handle.remove()
    random = torch.Generator().manual_seed(1)
    torch.stack([(y * torch.randn(y.shape, generator=random)).sum() for y in found]).sum().backward()
    assert kept[0].grad is not None
    return [*(y.detach() for y in found), kept[0].grad]


@pytest.mark.parametrize("length", [1, 7, 16])
@pytest.mark.parametrize("inputs", ["plain", "masked", "segments"])
@pytest.mark.parametrize("kind", KINDS)
def test_against_hf(kind: str, inputs: str, length: int) -> None:
    theirs = reference(KINDS[kind])
    ours = from_reference(BERT, theirs)
    tokens = torch.randint(29, (2, length))
    mask = torch.arange(length) < torch.tensor([[length], [(length + 1) // 2]]) if inputs != "plain" else None
    segments = torch.randint(2, (2, length)) if inputs == "segments" else None
    expected = run(
        theirs, theirs.get_input_embeddings(), input_ids=tokens, attention_mask=mask, token_type_ids=segments
    )
    got = run(ours, ours.embedding, tokens, mask, segments)
    assert len(got) == len(expected) == (3 if kind == "pretraining" else 2)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_norm_eps_is_read() -> None:
    theirs = reference(BertForPreTraining, layer_norm_eps=0.1)
    ours, tokens = from_reference(BERT, theirs), torch.randint(29, (2, 7))
    torch.testing.assert_close(ours(tokens).mlm, theirs(tokens).prediction_logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gives", ["one", "steps"])
def test_encoder_under_a_fresh_head(gives: Any) -> None:
    theirs = reference(BertModel)
    ours, tokens = from_reference(BERT, theirs, gives=gives, d_out=3), torch.randint(29, (2, 7))
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    expected = theirs(tokens, attention_mask=mask)
    hidden = ours.features(tokens, mask)
    torch.testing.assert_close(hidden, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    below = expected.last_hidden_state if gives == "steps" else expected.pooler_output
    torch.testing.assert_close(ours(tokens, mask), ours.head(below), atol=1e-5, rtol=1e-5)
    mean = torch.stack([hidden[0].mean(0), hidden[1, :4].mean(0)])
    torch.testing.assert_close(ours.embed(tokens, mask), mean / mean.norm(dim=1, keepdim=True), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_head_takes_the_place_of_any(kind: str) -> None:
    theirs = reference(KINDS[kind])
    ours, tokens = from_reference(BERT, theirs, gives="one", d_out=4), torch.randint(29, (2, 7))
    expected = theirs.bert(tokens).last_hidden_state
    torch.testing.assert_close(ours.features(tokens), expected, atol=1e-5, rtol=1e-5)
    assert ours(tokens).shape == (2, 4)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "tanh-gelu": (BertForPreTraining, {"hidden_act": "gelu_new"}, "hidden_act"),
    "segments": (BertForPreTraining, {"type_vocab_size": 3}, "type_vocab_size"),
    "decoder": (BertForPreTraining, {"is_decoder": True}, "is_decoder"),
    "untied": (BertForPreTraining, {"tie_word_embeddings": False}, "tie_word_embeddings"),
    "no-head": (BertModel, {}, "gives"),
    "no-nsp": (BertForMaskedLM, {}, "seq_relationship"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str) -> None:
    kind, changes, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(BERT, reference(kind, **changes))


def test_no_weight_is_left_over() -> None:
    theirs = reference(BertForPreTraining)
    theirs.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(BERT, theirs)
    with pytest.raises(UserError, match="extra"):
        from_reference(BERT, theirs, gives="one", d_out=2)


def test_an_untied_output_is_seen() -> None:
    theirs = reference(BertForPreTraining)
    weights = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    weights["cls.predictions.decoder.bias"] += 1
    with pytest.raises(UserError, match="tied"):
        bert_from_weights(theirs.config.to_dict(), weights)
