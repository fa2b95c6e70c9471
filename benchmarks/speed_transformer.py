"""`transformer`, `bert` and `gpt` beside torch.nn.Transformer and transformers: the same weights and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.case import Case
from oliveira.convert import from_reference

B, T, D, LAYERS, HEADS, FF, VOCAB = 8, 64, 256, 4, 4, 1024, 4096


def _both(
    name: str, model: str, reference: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]
) -> Iterator[Case]:
    """Two cases: forward, and forward with its backward."""

    def still(run: Callable[[], Tensor]) -> Callable[[], object]:
        def forward() -> None:
            with torch.inference_mode():
                run()

        return forward

    def learning(run: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: run().square().mean().backward()

    for kind, wrapped in (("forward", still), ("forward+backward", learning)):
        yield Case(
            name=f"{name} {kind}, B {B} T {T} d_model {D} layers {LAYERS}",
            model=model,
            ours=wrapped(ours),
            reference=wrapped(theirs),
            reference_name=reference,
        )


def _transformer() -> Iterator[Case]:
    from oliveira.models.transformer import Transformer, TwoTowers

    theirs = nn.Transformer(D, HEADS, LAYERS, LAYERS, FF, dropout=0.0, batch_first=True).eval()
    ours = from_reference(Transformer, theirs, vocab_size=VOCAB, target_vocab_size=VOCAB, max_len=T)
    assert isinstance(ours, TwoTowers)
    source, target = torch.randn(B, T, D), torch.randn(B, T, D)
    future = nn.Transformer.generate_square_subsequent_mask(T)
    yield from _both(
        "transformer",
        "transformer",
        "torch.nn.Transformer",
        lambda: ours.decode(target, ours.encode(source)),
        lambda: theirs(source, target, tgt_mask=future, tgt_is_causal=True),
    )


def _bert() -> Iterator[Case]:
    from transformers import BertConfig, BertForPreTraining

    from oliveira.models.bert import BERT, Pretraining

    config = BertConfig(
        vocab_size=VOCAB, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=FF,
        max_position_embeddings=T, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = BertForPreTraining(config).eval()
    ours = from_reference(BERT, theirs)
    tokens, mask = torch.randint(VOCAB, (B, T)), torch.ones(B, T, dtype=torch.bool)
    mask[::2, T * 3 // 4 :] = False

    def run() -> Tensor:
        output = ours(tokens, mask)
        assert isinstance(output, Pretraining)
        return output.mlm

    yield from _both(
        "bert",
        "bert",
        "transformers BertForPreTraining",
        run,
        lambda: theirs(tokens, attention_mask=mask).prediction_logits,
    )


def _gpt() -> Iterator[Case]:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from oliveira.models.gpt import GPT

    ends: dict[str, Any] = dict(bos_token_id=0, eos_token_id=0)
    gpt2 = GPT2Config(
        vocab_size=VOCAB, n_embd=D, n_layer=LAYERS, n_head=HEADS, n_inner=FF, n_positions=T, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, **ends,
    )  # fmt: skip
    llama = LlamaConfig(
        vocab_size=VOCAB, hidden_size=D, intermediate_size=FF, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2, max_position_embeddings=T, use_cache=False, **ends,
    )  # fmt: skip
    tokens = torch.randint(VOCAB, (B, T))
    for name, theirs in (("GPT2LMHeadModel", GPT2LMHeadModel(gpt2)), ("LlamaForCausalLM", LlamaForCausalLM(llama))):
        theirs.eval()
        ours = from_reference(GPT, theirs)
        yield from _both(
            f"gpt as {name}",
            "gpt",
            f"transformers {name}",
            lambda ours=ours: ours(tokens),  # type: ignore[misc]
            lambda theirs=theirs: theirs(input_ids=tokens).logits,  # type: ignore[misc]
        )


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    for family in (_transformer, _bert, _gpt):
        yield from family()
