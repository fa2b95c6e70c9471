"""Transformer against torch.nn.Transformer and Marian: weights outputs and gradients to 1e-5."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from oliveira.convert import from_reference
from oliveira.errors import UserError
from oliveira.models.transformer import OneTower, Transformer, TransformerConfig, TwoTowers
from oliveira.registry import entry
from oliveira.runs.run import build
from oliveira.tasks.catalogue import task

# torch warns when its faster path for inference is not open to a layer.
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")
TORCH: dict[str, Any] = dict(
    d_model=24, nhead=3, num_encoder_layers=2, num_decoder_layers=3, dim_feedforward=40, dropout=0.1, batch_first=True
)
ENDS = dict(vocab_size=37, target_vocab_size=29, max_len=16)
MARIAN: dict[str, Any] = dict(
    vocab_size=37, d_model=24, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=40, decoder_ffn_dim=40, max_position_embeddings=16, scale_embedding=True, pad_token_id=36,
    bos_token_id=0, eos_token_id=1, decoder_start_token_id=36, activation_function="relu", forced_eos_token_id=None,
)  # fmt: skip
TORCH_VARIANTS: dict[str, dict[str, Any]] = {
    "post": {},
    "pre": {"norm_first": True},
    "gelu": {"activation": "gelu"},
    "pre-one-layer": {"norm_first": True, "num_encoder_layers": 1, "num_decoder_layers": 1},
}
MARIAN_VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "gelu": {"activation_function": "gelu"},
    "two-vocabularies": {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 41},
    "two-vocabularies-of-one-size": {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 37},
    "odd-width": {"d_model": 27, "encoder_attention_heads": 3, "decoder_attention_heads": 3},
}


def randomised(module: nn.Module) -> Any:
    """Every weight random, norms and biases too: a swapped pair would show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:  # Marian's positions are a frozen one
                parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name == "final_logits_bias":
                buffer.normal_()
    return module.eval()


def with_gradients(run: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The output, and the gradient of each input against a fixed direction."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = run(*leaves)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (y * direction).sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def padding(lengths: list[int], steps: int) -> Tensor:
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", TORCH_VARIANTS)
def test_against_torch(name: str, masked: bool) -> None:
    theirs = randomised(nn.Transformer(**{**TORCH, **TORCH_VARIANTS[name]}))
    ours = from_reference(Transformer, theirs, **ENDS)
    assert isinstance(ours, TwoTowers)
    source, target = torch.randn(2, 7, 24), torch.randn(2, 5, 24)
    mask = padding([7, 4], 7) if masked else None
    hidden = None if mask is None else ~mask
    future = nn.Transformer.generate_square_subsequent_mask(5).isinf()

    def run_theirs(source: Tensor, target: Tensor) -> Tensor:
        return theirs(
            source,
            target,
            tgt_mask=future,
            tgt_is_causal=True,
            src_key_padding_mask=hidden,
            memory_key_padding_mask=hidden,
        )

    def run_ours(source: Tensor, target: Tensor) -> Tensor:
        allowed = None if mask is None else mask[:, None, None, :]
        return ours.decode(target, ours.encode(source, allowed), allowed)

    for got, expected in zip(
        with_gradients(run_ours, source, target), with_gradients(run_theirs, source, target), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["post", "pre"])
def test_encoder_alone_against_torch(name: str) -> None:
    """The one-tower form on numbers: torch's encoder between our two ends."""
    theirs = randomised(nn.Transformer(**{**TORCH, **TORCH_VARIANTS[name]}))
    state = from_reference(Transformer, theirs, **ENDS).state_dict()
    sizes: dict[str, Any] = dict(
        d_model=24, n_heads=3, n_layers=2, d_ff=40, pre_norm=name == "pre", final_norm=True, max_len=16
    )
    ours = OneTower(TransformerConfig(d_in=3, d_out=4, **sizes), gives="one").eval()
    ours.load_state_dict({**ours.state_dict(), **{k: v for k, v in state.items() if k.startswith("encoder")}})
    x, mask = torch.randn(2, 7, 3), padding([7, 4], 7)

    def run_theirs(x: Tensor) -> Tensor:
        steps = ours.source.project(x) + ours.positions(torch.arange(7))
        h = theirs.encoder(steps, src_key_padding_mask=~mask)
        pooled = torch.stack([h[0].mean(0), h[1, :4].mean(0)])
        return ours.output.project(pooled)

    for got, expected in zip(with_gradients(lambda x: ours(x, mask), x), with_gradients(run_theirs, x), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def embedded(module: nn.Module, embeddings: list[nn.Embedding], run: Callable[[], Tensor]) -> list[Tensor]:
    """Logits, and their gradients at the outputs of the embeddings."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handles = [embedding.register_forward_hook(keep) for embedding in dict.fromkeys(embeddings)]
    logits = run()
    for handle in handles:
        handle.remove()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * direction).sum().backward()
    return [logits.detach(), *(tensor.grad for tensor in kept if tensor.grad is not None)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MARIAN_VARIANTS)
def test_against_hf_marian(name: str, masked: bool) -> None:
    theirs = randomised(MarianMTModel(MarianConfig(**{**MARIAN, **MARIAN_VARIANTS[name]})))
    ours = from_reference(Transformer, theirs)
    assert isinstance(ours, TwoTowers) and ours.source.embedding is not None
    assert ours.config.tied == (name not in ("untied", "two-vocabularies-of-one-size"))
    source, target = torch.randint(30, (2, 7)), torch.randint(30, (2, 5))
    mask = padding([7, 4], 7) if masked else None
    expected = embedded(
        theirs,
        [theirs.model.encoder.embed_tokens, theirs.model.decoder.embed_tokens],
        lambda: theirs(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits,
    )
    got = embedded(ours, [ours.source.embedding, ours.target], lambda: ours(source, target, mask))
    assert len(got) == len(expected) == 3
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)
    for gradient, reference in zip(got[1:], expected[1:], strict=True):  # Marian's axes: all sines, all cosines
        first, second = reference.split([(len(reference[0, 0]) + 1) // 2, len(reference[0, 0]) // 2], dim=-1)
        torch.testing.assert_close(gradient[..., 0::2], first, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient[..., 1::2], second, atol=1e-5, rtol=1e-5)


def test_greedy_translation_against_hf_marian() -> None:
    theirs = randomised(MarianMTModel(MarianConfig(**MARIAN)))
    theirs.generation_config.max_length = None
    ours = from_reference(Transformer, theirs)
    source, mask = torch.randint(36, (3, 7)), padding([7, 4, 2], 7)
    expected = theirs.generate(
        source, attention_mask=mask.long(), max_new_tokens=10, do_sample=False, num_beams=1, eos_token_id=None,
        bad_words_ids=None,
    )  # fmt: skip
    written = torch.full((3, 1), 36)
    with torch.inference_mode():
        for _ in range(10):
            written = torch.cat([written, ours(source, written, mask)[:, -1:].argmax(dim=-1)], dim=1)
    assert written.tolist() == expected.tolist()


REFUSED = {
    "no-bias": (lambda: nn.Transformer(**TORCH, bias=False), "bias"),
    "eps": (lambda: nn.Transformer(**TORCH, layer_norm_eps=1e-3), "layer_norm_eps"),
    "activation": (lambda: nn.Transformer(**TORCH, activation=torch.tanh), "activation"),
    "custom": (lambda: nn.Transformer(**TORCH, custom_encoder=nn.Identity()), "custom"),
    "another": (lambda: nn.Linear(2, 2), "Linear"),
    "unscaled": (lambda: MarianMTModel(MarianConfig(**{**MARIAN, "scale_embedding": False})), "scale_embedding"),
    "swish": (lambda: MarianMTModel(MarianConfig(**{**MARIAN, "activation_function": "swish"})), "activation"),
    "heads": (lambda: MarianMTModel(MarianConfig(**{**MARIAN, "decoder_attention_heads": 2})), "heads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_compute(name: str) -> None:
    make, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(Transformer, make(), **ENDS)


def test_refuses_positions_that_are_no_sinusoids() -> None:
    theirs = MarianMTModel(MarianConfig(**MARIAN))
    with torch.no_grad():
        theirs.model.decoder.embed_positions.weight += 0.1
    with pytest.raises(UserError, match="positions"):
        from_reference(Transformer, theirs)


def test_torch_needs_the_sizes_of_its_ends() -> None:
    with pytest.raises(UserError, match="vocab_size"):
        from_reference(Transformer, nn.Transformer(**TORCH))


def test_no_weight_is_left_over() -> None:
    theirs = nn.Transformer(**TORCH)
    theirs.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(UserError, match="extra"):
        from_reference(Transformer, theirs, **ENDS)


def test_a_copy_is_of_the_same_form() -> None:
    sizes: dict[str, Any] = dict(vocab_size=37, d_model=16, n_heads=2, d_ff=32, max_len=16)
    for ends, kind in ((dict(d_out=3), OneTower), (dict(target_vocab_size=5), TwoTowers)):
        model = Transformer(TransformerConfig(**sizes, **ends))
        twin = copy.deepcopy(model)
        assert type(model) is type(twin) is kind
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_one_tower_is_causal_exactly_when_it_gives_the_next_token(masked: bool) -> None:
    sizes: dict[str, Any] = dict(vocab_size=37, d_out=37, d_model=16, n_heads=2, d_ff=32, max_len=16)
    x = torch.randint(37, (2, 9))
    changed = x.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 37
    mask = padding([9, 7], 9) if masked else None
    for gives, equal in (("next", True), ("steps", False)):
        torch.manual_seed(0)
        model = Transformer(TransformerConfig(**sizes), gives).eval()
        assert torch.equal(model(x, mask)[:, :5], model(changed, mask)[:, :5]) == equal


def test_a_task_that_wants_the_next_token_gets_a_causal_tower() -> None:
    """With gives="steps" every step sees the token that it is to foretell: a language model would score near 0 bits."""
    wanted = task("lm/bncc")
    data: Any = SimpleNamespace(sizes={"vocab_size": 37, "d_out": 37, "max_len": 16})
    assert wanted.gives == "next"
    made: Any = build(wanted, data, entry("transformer"))
    assert made.gives == "next"
