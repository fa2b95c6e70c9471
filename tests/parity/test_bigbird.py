"""BigBird against transformers: weights copied by the converter that users call, logits and gradients to 1e-5."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BigBirdConfig, BigBirdForMaskedLM

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.bigbird import BigBird

SIZES = dict(
    vocab_size=29, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, block_size=4,
    num_random_blocks=2, max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    pad_token_id=0,
)  # fmt: skip


def reference(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    module = BigBirdForMaskedLM(BigBirdConfig(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def random_blocks_of(layer: Any, length: int, seed: int) -> Tensor:
    """The list that a reference layer draws in training: (H, N, r), the global blocks' own rows empty."""
    np.random.seed(seed)
    size = layer.block_size
    plan = layer._get_rand_attn_plan(length, size, layer.num_random_blocks)
    rows = layer._bigbird_block_rand_mask_with_head(length, length, size, size, layer.num_attention_heads, *plan)
    return torch.nn.functional.pad(torch.from_numpy(np.stack(rows)).long(), (0, 0, 1, 1), value=-1)


def run(module: nn.Module, embedding: nn.Embedding, tokens: Tensor, mask: Tensor | None, hf: bool) -> list[Tensor]:
    """Logits and the gradient at the embedded input."""
    kept: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda *found: (found[2].retain_grad(), kept.append(found[2]), None)[2])
    if hf:
        logits = module(input_ids=tokens, attention_mask=None if mask is None else mask.long()).logits
    else:
        logits = module(tokens, mask)
    handle.remove()
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)) * real[:, :, None]
    (logits * direction).sum().backward()
    gradient = kept[0].grad
    assert gradient is not None
    return [logits.detach()[real], gradient[:, : tokens.shape[1]][real]]


def agree(theirs: nn.Module, ours: BigBird, length: int, mask: Tensor | None = None) -> None:
    tokens = torch.randint(1, 29, (2, length))
    expected = run(theirs, theirs.get_input_embeddings(), tokens, mask, hf=True)
    assert ours.input.embedding is not None
    got = run(ours, ours.input.embedding, tokens, mask, hf=False)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [40, 43, 64])
def test_against_hf_block_sparse_at_evaluation(length: int) -> None:
    """There the reference replaces every random block by the first one, which then weighs 1 + r times."""
    theirs = reference()
    agree(theirs, from_reference(BigBird, theirs), length)
    assert theirs.bert.attention_type == "block_sparse", "the reference went over to full attention"


@pytest.mark.parametrize("length", [40, 60])
def test_against_hf_block_sparse_in_training(length: int) -> None:
    """With the random blocks of its seeded numpy, one list a layer and head."""
    theirs = reference().train()
    ours = from_reference(BigBird, theirs)
    for i, block in enumerate(ours.blocks):
        layer = theirs.bert.encoder.layer[i].attention.self
        drawn = random_blocks_of(layer, length, seed=i)
        assert drawn[:, 1:-1].unique().numel() > 4, "nothing was drawn"
        block.attention.random = drawn
    agree(theirs, ours, length)


@pytest.mark.parametrize("last_block", [1, 3, 4])
def test_against_hf_with_padding(last_block: int) -> None:
    """Rows that end in the last block: there the two agree on which block is the last."""
    theirs = reference()
    mask = torch.ones(2, 48, dtype=torch.bool)
    mask[1, 44 + last_block :] = False
    agree(theirs, from_reference(BigBird, theirs), 48, mask)


@pytest.mark.parametrize("length", [1, 17, 64])
@pytest.mark.parametrize("masked", [False, True])
def test_against_hf_original_full(length: int, masked: bool) -> None:
    theirs = reference(attention_type="original_full")
    mask = torch.arange(length) < torch.tensor([[length], [(length + 1) // 2]]) if masked else None
    agree(theirs, from_reference(BigBird, theirs), length, mask)


def test_against_hf_over_variants() -> None:
    for changes in ({"tie_word_embeddings": False}, {"layer_norm_eps": 0.1}, {"num_random_blocks": 1, "block_size": 2}):
        theirs = reference(**changes)
        agree(theirs, from_reference(BigBird, theirs), 50)


@pytest.mark.parametrize(
    "changes",
    [{"hidden_act": "gelu"}, {"use_bias": False}, {"rescale_embeddings": True}, {"is_decoder": True}],
    ids=str,
)
def test_refuses_what_it_does_not_compute(changes: dict[str, Any]) -> None:
    if "is_decoder" in changes:
        changes = {**changes, "attention_type": "original_full"}
    with pytest.raises(UserError, match=next(iter(changes))):
        from_reference(BigBird, reference(**changes))


def test_refuses_another_model_and_a_weight_left_over() -> None:
    bert = BertForMaskedLM(BertConfig(vocab_size=29, hidden_size=24, num_hidden_layers=1, num_attention_heads=3))
    with pytest.raises(UserError, match="BertForMaskedLM"):
        from_reference(BigBird, bert)
    theirs = reference()
    theirs.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(BigBird, theirs)
