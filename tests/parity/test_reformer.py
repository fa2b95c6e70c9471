"""Reformer against transformers: weights copied by the converter that users call, logits and gradients to 1e-5.

Both sides hash in the forward pass by rotations of one seed; the converter draws the reference's. In float64: in
float32 the reference adds the rounds of a step that is alone at −1e5, where numbers are 0.008 apart: off by 0.4 %.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ReformerConfig, ReformerModel, ReformerModelWithLMHead

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.reformer import Reformer

SIZES = dict(
    vocab_size=29, hidden_size=24, num_attention_heads=3, attention_head_size=8, feed_forward_size=40, hash_seed=5,
    attn_layers=["lsh", "lsh"], axial_pos_embds=False, lsh_attn_chunk_length=4,
    local_attn_chunk_length=4, num_buckets=4,
    num_hashes=2, max_position_embeddings=32, is_decoder=True, hidden_dropout_prob=0.0,
    lsh_attention_probs_dropout_prob=0.0, local_attention_probs_dropout_prob=0.0, pad_token_id=0, eos_token_id=1,
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "lsh": {},
    "one-hash": {"num_hashes": 1},
    "four-hashes": {"num_hashes": 4, "num_buckets": 8},
    "local": {"attn_layers": ["local", "local"]},
    "in-turn": {"attn_layers": ["local", "lsh", "local"]},
    "eps": {"layer_norm_eps": 0.1},
}


def reference(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    module = ReformerModelWithLMHead(ReformerConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.double()


def converted(theirs: nn.Module) -> Reformer:
    return from_reference(Reformer, theirs).double()


def gradient_at(embedding: nn.Embedding, logits: Tensor, rows: Tensor) -> Tensor:
    """Of the logits against a fixed direction, at the word embeddings: what has passed through every layer."""
    direction = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * rows
    (logits * direction).sum().backward()
    assert embedding.weight.grad is not None
    return embedding.weight.grad


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("length", [1, 4, 13, 16, 32])
def test_against_hf(name: str, length: int) -> None:
    """In evaluation, where the reference pads to whole chunks; it computes gradients in training only."""
    theirs = reference(**VARIANTS[name])
    tokens = torch.randint(1, 29, (2, length))
    with torch.no_grad():
        expected = theirs(input_ids=tokens).logits
    torch.testing.assert_close(converted(theirs)(tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("length", [4, 16, 32])
def test_gradients_against_hf(name: str, length: int) -> None:
    """Both run their reversible backward."""
    theirs = reference(**VARIANTS[name]).train()
    ours = converted(theirs).train()
    tokens = torch.randint(1, 29, (2, length))
    expected, got = theirs(input_ids=tokens).logits, ours(tokens)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    rows = torch.ones(2, length, 1, dtype=torch.float64)
    assert ours.input.embedding is not None
    torch.testing.assert_close(
        gradient_at(ours.input.embedding, got, rows),
        gradient_at(theirs.get_input_embeddings(), expected, rows),
        atol=1e-5,
        rtol=1e-4,
    )
    mine = dict(ours.named_parameters())["blocks.0.g.1.up.weight"].grad
    other = dict(theirs.named_parameters())["reformer.encoder.layers.0.feed_forward.dense.dense.weight"].grad
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["lsh", "local", "in-turn"])
def test_against_hf_with_padding(name: str) -> None:
    theirs = reference(**VARIANTS[name])
    tokens = torch.randint(1, 29, (2, 16))
    mask = torch.arange(16) < torch.tensor([[16], [9]])
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=mask.long()).logits
    got = converted(theirs)(tokens, mask)
    torch.testing.assert_close(got[mask], expected[mask], atol=1e-5, rtol=1e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "axial": ({"axial_pos_embds": True, "axial_pos_shape": [4, 8], "axial_pos_embds_dim": [8, 16]}, "axial_pos_embds"),
    "gelu": ({"hidden_act": "gelu"}, "hidden_act"),
    "head": ({"attention_head_size": 4}, "attention_head_size"),
    "look-back": ({"lsh_num_chunks_before": 2}, "lsh_num_chunks_before"),
    "chunks": ({"local_attn_chunk_length": 8}, "local_attn_chunk_length"),
    "layers": ({"attn_layers": ["lsh", "local"]}, "attn_layers"),
    "buckets": ({"num_buckets": [2, 4]}, "num_buckets"),
    "buckets later": ({"num_buckets": None}, "num_buckets"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str) -> None:
    changes, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(Reformer, reference(**changes))


def test_refuses_another_model_and_a_weight_left_over() -> None:
    with pytest.raises(UserError, match="ReformerModelWithLMHead"):
        from_reference(Reformer, ReformerModel(ReformerConfig(**SIZES)))
    theirs = reference()
    theirs.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(Reformer, theirs)
