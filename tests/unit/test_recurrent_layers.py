"""Recurrent layers: the kernels against the equations, reversal of padded rows, and what padding may not do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oliveira.compression.model import quantise_model
from oliveira.export.forward import ForwardRunner, export_forward
from oliveira.models.bilstm import BiLSTM
from oliveira.models.seq2seq import Seq2Seq, Seq2SeqConfig
from oliveira.nn.bahdanau import AdditiveAttention, AttentiveGRU, additive_scores_reference
from oliveira.nn.recurrent import Kind, Layer, Recurrent, RecurrentConfig, gru_cell, lstm_cell, reverse, rnn_cell

KINDS: list[Kind] = ["rnn", "lstm", "gru"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_the_equation(kind: Kind, started: bool) -> None:
    layer = Layer(kind, 5, 7).double()
    nn.init.normal_(layer.weight_hh)
    x = torch.randn(3, 11, 5, dtype=torch.float64)
    h = torch.randn(3, 7, dtype=torch.float64) if started else None
    torch.testing.assert_close(layer(x, h), layer.unrolled(x, h), atol=1e-12, rtol=1e-12)


def test_cells_by_arithmetic() -> None:
    """Gates at ½ (logit 0) or all but open and shut (±50)."""
    half, full = torch.zeros(1), torch.full((1,), 50.0)
    one = torch.ones(1)
    torch.testing.assert_close(rnn_cell(one, one), torch.tensor([2.0]).tanh())
    # i = 1, f = ½, g = tanh 1, o = ½; s = ½·4 + tanh 1
    h, s = lstm_cell(torch.cat([full, half, one, half]), torch.zeros(4), 4 * one)
    torch.testing.assert_close(s, 2 + one.tanh())
    torch.testing.assert_close(h, s.tanh() / 2)
    # r = ½, z = ½: n = tanh(1 + ½·2), h' = ½ n + ½·4
    h = gru_cell(torch.cat([half, half, one]), torch.cat([half, half, 2 * one]), 4 * one)
    torch.testing.assert_close(h, (2 * one).tanh() / 2 + 2)
    # z = 1 keeps the state, whatever n is
    torch.testing.assert_close(gru_cell(torch.cat([half, full, one]), torch.zeros(3), 4 * one), 4 * one)


def test_reverse_turns_real_steps_only() -> None:
    x = torch.arange(1, 11.0).view(2, 5, 1)
    mask = torch.tensor([[True] * 3 + [False] * 2, [False] * 5])
    assert reverse(x, mask)[:, :, 0].tolist() == [[3, 2, 1, 4, 5], [6, 7, 8, 9, 10]]
    assert reverse(x, None)[:, :, 0].tolist() == [[5, 4, 3, 2, 1], [10, 9, 8, 7, 6]]
    assert torch.equal(reverse(reverse(x, mask), mask), x)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_padding(kind: Kind) -> None:
    layers = Recurrent(kind, 3, 4, 2, bidirectional=True)
    x = torch.randn(2, 6, 3, requires_grad=True)
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    layers(x, mask)[mask].square().sum().backward()
    assert x.grad is not None
    assert not x.grad[~mask].any() and x.grad[mask].all()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_both_ways_see_all(bidirectional: bool) -> None:
    """One way the first step cannot know the last; both ways it can."""
    layers = Recurrent("gru", 3, 4, bidirectional=bidirectional)
    x = torch.randn(1, 6, 3)
    changed = x.clone()
    changed[0, -1] += 1
    assert torch.equal(layers(x)[0, 0], layers(changed)[0, 0]) == (not bidirectional)


def test_dropout_stands_between_layers_only() -> None:
    one, two = (Recurrent("lstm", 3, 4, n_layers, dropout=0.5) for n_layers in (1, 2))
    x = torch.randn(2, 5, 3)
    assert torch.equal(one(x), one(x))
    assert not torch.equal(two(x), two(x))
    assert torch.equal(two.eval()(x), two(x))


def test_the_forget_gate_starts_open() -> None:
    layer = Layer("lstm", 3, 4)
    assert (layer.bias_ih[4:8] == 1).all() and not (layer.bias_ih[:4] == 1).any()


def test_additive_attention_is_the_equation() -> None:
    """σ in place of tanh moves every score of a row by the same amount, which the softmax does not see."""
    attention = AdditiveAttention(5, 6, 7).double()
    s, h = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 4, 6, dtype=torch.float64)
    weights = attention.query.weight, attention.key.weight, attention.score.weight[0]
    expected = additive_scores_reference(s, h, *weights).softmax(dim=-1)
    torch.testing.assert_close(attention(s, attention.keys(h)), expected, atol=1e-12, rtol=1e-12)


def test_attention_sees_nothing_masked() -> None:
    layer = AttentiveGRU(3, 6, 4)
    x, memory, s = torch.randn(2, 5, 3), torch.randn(2, 7, 6), torch.randn(2, 4)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    states, weights = layer(x, memory, s, mask)
    assert not weights[1, :, 4:].any()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 5))
    alone = layer(x[1:], memory[1:, :4], s[1:])
    torch.testing.assert_close(states[1:], alone[0])
    nothing = layer(x, memory, s, torch.zeros(2, 7, dtype=torch.bool))
    torch.testing.assert_close(nothing[1], torch.full((2, 5, 7), 1 / 7))


def test_attention_map_is_what_forward_used() -> None:
    config = Seq2SeqConfig(vocab_size=11, target_vocab_size=9, d_model=6)
    model = Seq2Seq(config).eval()
    source, target = torch.randint(11, (2, 5)), torch.randint(9, (2, 4))
    weights = model.attention_map(source, target)
    assert weights.shape == (2, 4, 5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4))
    none = Seq2Seq(Seq2SeqConfig(vocab_size=11, target_vocab_size=9, d_model=6, attention="none"))
    with pytest.raises(ValueError, match="no attention map"):
        none.attention_map(source, target)


def test_one_way_encoder_without_attention_passes_its_last_state() -> None:
    """What follows the source in padding does not count, and nothing but the last state does."""
    model = Seq2Seq(
        Seq2SeqConfig(vocab_size=11, target_vocab_size=9, d_model=6, attention="none", bidirectional=False)
    ).eval()
    source, target = torch.randint(11, (1, 5)), torch.randint(9, (1, 4))
    last = model.encoder(model.source(source))[:, -1]
    assert isinstance(model.first, Layer)
    expected = model.output(model.first.unrolled(model.target(target), last))
    torch.testing.assert_close(model(source, target), expected, atol=1e-6, rtol=1e-6)


def close(path: Path, model: nn.Module, *inputs: Tensor) -> None:
    got = torch.from_numpy(ForwardRunner(path)(*(x.numpy() for x in inputs)))
    torch.testing.assert_close(got, model(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_onnx_keeps_every_axis_free(tmp_path: Path) -> None:
    """Padded rows, other lengths than those exported, in torch and in the file; also after another export."""
    model = BiLSTM(RecurrentConfig(d_in=3, d_out=5, d_model=6, n_layers=2), gives="one").eval()
    path = tmp_path / "bilstm.onnx"
    masked = (torch.randn(2, 9, 3), torch.ones(2, 9, dtype=torch.bool))
    assert export_forward(model, masked, path, ("series", "one")) == {"x": "free", "mask": "free"}
    with torch.no_grad():
        for batch, steps in ((1, 1), (3, 12), (2, 9)):
            mask = torch.arange(steps) < torch.randint(steps + 1, (batch, 1))
            close(path, model, torch.randn(batch, steps, 3), mask)


@pytest.mark.slow
def test_onnx_of_the_attentive_decoder_is_a_loop(tmp_path: Path) -> None:
    """Source and target of any length in one file, int8 weights too."""
    model = Seq2Seq(Seq2SeqConfig(vocab_size=11, target_vocab_size=9, d_model=6, n_layers=2)).eval()
    quantise_model(model, "int8")
    path = tmp_path / "seq2seq.onnx"
    example = (torch.randint(11, (2, 7)), torch.randint(9, (2, 5)), torch.ones(2, 7, dtype=torch.bool))
    lengths = export_forward(model, example, path, ("pairs", "next"))
    assert set(lengths.values()) == {"free"}
    with torch.no_grad():
        for batch, n_source, n_target in ((1, 1, 1), (3, 12, 2), (2, 4, 20)):
            mask = torch.arange(n_source) < torch.randint(1, n_source + 1, (batch, 1))
            close(path, model, torch.randint(11, (batch, n_source)), torch.randint(9, (batch, n_target)), mask)
