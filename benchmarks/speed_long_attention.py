"""Linformer, Reformer, BigBird and tiled attention beside their references: the same weights and inputs.

The tiled attention of `nn.flash` is for reading and is expected to be slower than torch's own kernel in C++.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.case import Case
from oliveira.convert import from_reference
from oliveira.models.bigbird import BigBird, BigBirdConfig
from oliveira.models.linformer import Linformer
from oliveira.models.reformer import Reformer
from oliveira.nn.attention import attention_reference
from oliveira.nn.flash import flash_attention

VOCAB, WIDTH, HEADS, LAYERS, D_FF = 256, 256, 4, 2, 512


def _training(module: nn.Module, run: Callable[[], Tensor]) -> Callable[[], None]:
    def step() -> None:
        run().square().mean().backward()
        module.zero_grad()

    return step


def _forward(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def step() -> Tensor:
        with torch.no_grad():
            return run()

    return step


def _both(
    model: str, size: str, ours: nn.Module, theirs: nn.Module, run: Callable[[Any], Tensor], tokens: Tensor, name: str
) -> Iterator[Case]:
    """Forward in evaluation, and a training step's two passes."""

    def mine() -> Tensor:
        return ours(tokens)

    def other() -> Tensor:
        return run(theirs)

    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(mine(), other(), atol=1e-2, rtol=1e-2)
    yield Case(
        name=f"{model} forward, {size}",
        model=model,
        ours=_forward(mine),
        reference=_forward(other),
        reference_name=name,
    )
    ours.train(), theirs.train()
    yield Case(
        name=f"{model} forward+backward, {size}",
        model=model,
        ours=_training(ours, mine),
        reference=_training(theirs, other),
        reference_name=name,
    )


def _linformer() -> Iterator[Case]:
    from linformer import LinformerLM

    torch.manual_seed(0)
    theirs = LinformerLM(num_tokens=VOCAB, dim=WIDTH, seq_len=1024, depth=LAYERS, k=128, heads=HEADS)
    tokens = torch.randint(VOCAB, (1, 1024))
    ours = from_reference(Linformer, theirs)
    yield from _both("linformer", "L 1024 k 128", ours, theirs, lambda m: m(tokens), tokens, "linformer.LinformerLM")


def _reformer() -> Iterator[Case]:
    from transformers import ReformerConfig, ReformerModelWithLMHead

    torch.manual_seed(0)
    config = ReformerConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_attention_heads=HEADS, attention_head_size=WIDTH // HEADS,
        feed_forward_size=D_FF, attn_layers=["lsh"] * LAYERS, axial_pos_embds=False, lsh_attn_chunk_length=64,
        local_attn_chunk_length=64, num_buckets=32, num_hashes=2, hash_seed=0, max_position_embeddings=1024,
        is_decoder=True, hidden_dropout_prob=0.0, local_attention_probs_dropout_prob=0.0, eos_token_id=1,
    )  # fmt: skip
    theirs = ReformerModelWithLMHead(config)
    tokens = torch.randint(VOCAB, (1, 1024))
    ours = from_reference(Reformer, theirs)
    name = "transformers ReformerModelWithLMHead"
    size = "L 1024 chunk 64 hashes 2"
    yield from _both("reformer", size, ours, theirs, lambda m: m(input_ids=tokens).logits, tokens, name)


def _bigbird(length: int) -> Iterator[Case]:
    from transformers import BigBirdConfig as TheirConfig
    from transformers import BigBirdForMaskedLM

    torch.manual_seed(0)
    config = TheirConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=D_FF,
        max_position_embeddings=length, block_size=64, num_random_blocks=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = BigBirdForMaskedLM(config)
    tokens = torch.randint(VOCAB, (1, length))
    ours = from_reference(BigBird, theirs)
    name = "transformers BigBirdForMaskedLM, block_sparse"
    size = f"L {length} block 64 random 3"
    yield from _both("bigbird", size, ours, theirs, lambda m: m(input_ids=tokens).logits, tokens, name)
    assert theirs.bert.attention_type == "block_sparse"


def _sparse_against_full(length: int) -> Iterator[Case]:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        vocab_size=VOCAB,
        d_out=VOCAB,
        d_model=WIDTH,
        n_heads=HEADS,
        n_layers=1,
        d_ff=D_FF,
        max_len=length,
        block_size=64,
    )
    sparse, full = (BigBird(BigBirdConfig(**sizes, attention=kind)).eval() for kind in ("sparse", "full"))
    tokens = torch.randint(VOCAB, (1, length))
    yield Case(
        name=f"bigbird forward, L {length}, against full attention",
        model="bigbird",
        ours=_forward(lambda: sparse(tokens)),
        reference=_forward(lambda: full(tokens)),
        reference_name="the same model with torch's fused full attention",
    )


def _flash() -> Iterator[Case]:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8, 1024, 64) for _ in range(3))
    for name, reference in (
        ("torch's fused kernel", F.scaled_dot_product_attention),
        ("attention as written", attention_reference),
    ):
        yield Case(
            name=f"flash (tiles in Python) forward, B 1 H 8 L 1024, against {name}",
            model="flash",
            ours=_forward(lambda: flash_attention(q, k, v)[0]),
            reference=_forward(lambda reference=reference: reference(q, k, v)),  # type: ignore[misc]
            reference_name=name,
        )


def cases() -> Iterator[Case]:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    yield from _linformer()
    yield from _reformer()
    yield from _bigbird(1024)
    yield from _bigbird(2048)
    yield from _sparse_against_full(4096)
    yield from _flash()
