"""Additive attention against keras, and the whole of seq2seq against torch's cells composed by hand."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"  # read at keras's import

import keras
import pytest
import torch
from torch import Tensor, nn

from oliveira.models.seq2seq import Seq2Seq, Seq2SeqConfig
from oliveira.nn.bahdanau import AdditiveAttention, AttentiveGRU


@pytest.mark.parametrize("masked", [False, True])
def test_against_keras_additive_attention(masked: bool) -> None:
    """keras has only v, which it calls scale: queries and keys go in projected, by our own W and U."""
    ours = AdditiveAttention(5, 6, 8)
    queries, memory = torch.randn(3, 4, 5), torch.randn(3, 7, 6)
    mask = torch.arange(7) < torch.tensor([[7], [3], [1]]) if masked else None
    theirs = keras.layers.AdditiveAttention(dtype="float64")
    projected, keys = ours.query(queries).detach(), ours.key(memory).detach()
    theirs.build([projected.shape, memory.shape, keys.shape])
    theirs.scale.assign(ours.score.weight[0].detach().numpy())
    masks = None if mask is None else [None, mask]
    context, weights = theirs([projected, memory, keys], mask=masks, return_attention_scores=True)
    for t in range(4):
        got = ours(queries[:, t], ours.keys(memory), mask)
        torch.testing.assert_close(got, weights[:, t].double(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close((got[:, None] @ memory)[:, 0], context[:, t].double(), atol=1e-6, rtol=1e-5)


def attend(attention: AdditiveAttention, s: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 5 and 6 for one query, as they are written."""
    scores = torch.tanh(attention.query(s)[:, None] + attention.key(memory)) @ attention.score.weight[0]
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return (weights[:, :, None] * memory).sum(dim=1), weights


def test_attentive_layer_against_gru_cell() -> None:
    layer = AttentiveGRU(5, 6, 8)
    x, memory, s = torch.randn(3, 9, 5), torch.randn(3, 7, 6), torch.randn(3, 8)
    mask = torch.arange(7) < torch.tensor([[7], [3], [1]])
    results = []
    for by_hand in (True, False):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, memory, s)]
        if by_hand:
            state, states, weights = inputs[2], [], []
            for step in inputs[0].unbind(1):
                context, attended = attend(layer.attention, state, inputs[1], mask)
                state = layer.cell(torch.cat([step, context], dim=-1), state)
                states.append(state)
                weights.append(attended)
            outputs = torch.stack(states, dim=1), torch.stack(weights, dim=1)
        else:
            outputs = layer(*inputs, mask)
        loss = torch.stack([(y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in outputs]).sum()
        results.append((*outputs, *torch.autograd.grad(loss, [*inputs, *layer.parameters()])))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def gru(theirs: nn.Module, d_in: int, d_model: int) -> nn.GRU:
    """torch's own layer with the weights of one of ours."""
    module = nn.GRU(d_in, d_model, batch_first=True)
    module.load_state_dict({f"{name}_l0": weight for name, weight in theirs.state_dict().items()})
    return module


def by_hand(model: Seq2Seq, source: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    """The whole model, one source row at a time, from torch's modules and the paper's equations."""
    config = model.config
    d_model, logits = config.d_model, []
    for row, words in zip(target, [s[:n] for s, n in zip(source, lengths, strict=True)], strict=True):
        memory = model.source(words)[None]
        for layer in range(config.n_layers):
            ahead = gru(model.encoder.ahead[layer], memory.shape[-1], d_model)(memory)[0]
            if config.bidirectional:
                back = gru(model.encoder.back[layer], memory.shape[-1], d_model)(memory.flip(1))[0].flip(1)
                ahead = torch.cat([ahead, back], dim=-1)
            memory = ahead
        last = memory[:, -1, :d_model]
        if model.bridge is None:
            states = [last] * config.n_layers
        else:
            ends = torch.cat([last, memory[:, 0, d_model:]], dim=-1)
            states = list(torch.tanh(model.bridge(ends)).split(d_model, dim=-1))
        first = model.first.cell if isinstance(model.first, AttentiveGRU) else cell(model.first, d_model)
        above = [cell(layer, d_model) for layer in model.above]
        for token in row:
            embedded = model.target(token)[None]
            if isinstance(model.first, AttentiveGRU):
                every = torch.ones(1, len(words), dtype=torch.bool)
                context, _ = attend(model.first.attention, states[0], memory, every)
                states[0] = first(torch.cat([embedded, context], dim=-1), states[0])
            else:
                states[0] = first(embedded, states[0])
            for number, upper in enumerate(above, start=1):
                states[number] = upper(states[number - 1], states[number])
            top = states[-1]
            if model.readout is not None:
                pairs = model.readout.project(torch.cat([top, embedded, context], dim=-1))[0]
                top = torch.maximum(pairs[0::2], pairs[1::2])[None]
            logits.append(model.output(top)[0])
    return torch.stack(logits).view(*target.shape, -1)


def cell(theirs: nn.Module, d_model: int) -> nn.GRUCell:
    module = nn.GRUCell(d_model, d_model)
    module.load_state_dict(theirs.state_dict())
    return module


@pytest.mark.parametrize("attention", ["additive", "none"])
@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_against_gru_cells(attention: str, n_layers: int, bidirectional: bool) -> None:
    """Sources of three lengths in one padded batch against the same rows alone; logits and one early gradient."""
    config = Seq2SeqConfig(
        vocab_size=13,
        target_vocab_size=11,
        d_model=6,
        n_layers=n_layers,
        attention=attention,  # type: ignore[arg-type]
        bidirectional=bidirectional,
    )
    model = Seq2Seq(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    lengths = torch.tensor([7, 2, 5])
    source, target = torch.randint(13, (3, 7)), torch.randint(11, (3, 5))
    mask = torch.arange(7) < lengths[:, None]
    results = []
    for run in (lambda: model(source, target, mask), lambda: by_hand(model, source, target, lengths)):
        logits = run()
        loss = (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum()
        results.append((logits, *torch.autograd.grad(loss, [model.source.weight, model.target.weight])))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
