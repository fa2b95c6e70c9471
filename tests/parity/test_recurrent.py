"""Recurrent layers and models against torch.nn: outputs, input gradients and one weight's gradient to 1e-5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oliveira.convert import from_reference
from oliveira.convert.recurrent import to_recurrent
from oliveira.errors import UserError
from oliveira.models.bigru import BiGRU
from oliveira.models.bilstm import BiLSTM
from oliveira.models.gru import GRU
from oliveira.models.lstm import LSTM
from oliveira.models.rnn import RNN

KERNELS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
SHAPES = {
    "one-layer": dict(num_layers=1),
    "two-layers": dict(num_layers=2),
    "both-ways": dict(num_layers=1, bidirectional=True),
    "three-layers-both-ways": dict(num_layers=3, bidirectional=True),
}
BOTH_WAYS = [name for name in SHAPES if "both" in name]
D_IN, D_MODEL = 5, 7


def reference(kind: str, shape: str, **arguments: Any) -> nn.RNNBase:
    """Weights twice as large as torch's, and no two alike: a swapped pair would show."""
    module = KERNELS[kind](D_IN, D_MODEL, **{"batch_first": True, **SHAPES[shape], **arguments})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return module.eval()


def compare(ours: nn.Module, theirs: nn.Module, run_ours: Any, run_theirs: Any, x: Tensor) -> None:
    """Both sides' outputs and their gradients at x and at the first hidden product, along one random direction."""
    results = []
    for module, run in ((ours, run_ours), (theirs, run_theirs)):
        inputs = x.clone().requires_grad_()
        y = run(inputs)
        direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        (y * direction).sum().backward()
        weights = dict(module.named_parameters())
        hidden = weights.get("ahead.0.weight_hh", weights.get("weight_hh_l0"))
        assert inputs.grad is not None and hidden is not None and hidden.grad is not None
        results.append((y.detach(), inputs.grad, hidden.grad))
    (y, at_x, at_hidden), (y_expected, at_x_expected, at_hidden_expected) = results
    torch.testing.assert_close(y, y_expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(at_x, at_x_expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(at_hidden, at_hidden_expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 8, 13])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KERNELS)
def test_against_torch(kind: str, shape: str, length: int) -> None:
    theirs = reference(kind, shape)
    ours = to_recurrent(theirs)
    compare(ours, theirs, ours, lambda x: theirs(x)[0], torch.randn(3, length, D_IN))


@pytest.mark.parametrize("kind", KERNELS)
def test_against_torch_time_first(kind: str) -> None:
    theirs = reference(kind, "three-layers-both-ways", batch_first=False)
    ours = to_recurrent(theirs)
    compare(ours, theirs, ours, lambda x: theirs(x.transpose(0, 1))[0].transpose(0, 1), torch.randn(3, 6, D_IN))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KERNELS)
def test_against_torch_packed(kind: str, shape: str) -> None:
    """Rows of different length, unsorted: the way back starts at each row's own last step."""
    theirs = reference(kind, shape)
    ours = to_recurrent(theirs)
    lengths = torch.tensor([4, 9, 1, 7])
    mask = torch.arange(9) < lengths[:, None]

    def packed(x: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(theirs(rows)[0], batch_first=True)[0]

    compare(ours, theirs, lambda x: ours(x, mask) * mask[:, :, None], packed, torch.randn(4, 9, D_IN))


@pytest.mark.parametrize("kind", KERNELS)
def test_double_precision_is_kept(kind: str) -> None:
    theirs = reference(kind, "three-layers-both-ways").double()
    x = torch.randn(2, 30, D_IN, dtype=torch.float64)
    torch.testing.assert_close(to_recurrent(theirs)(x), theirs(x)[0], atol=1e-12, rtol=1e-12)


MODELS: dict[Any, nn.RNNBase] = {
    RNN: nn.RNN(6, 6, 2, batch_first=True),
    LSTM: nn.LSTM(6, 6, 2, batch_first=True),
    GRU: nn.GRU(6, 6, 2, batch_first=True),
    BiLSTM: nn.LSTM(6, 6, 2, batch_first=True, bidirectional=True),
    BiGRU: nn.GRU(6, 6, 2, batch_first=True, bidirectional=True),
}


@pytest.mark.parametrize("eats", ["tokens", "series"])
@pytest.mark.parametrize("model", MODELS)
def test_models_against_torch(model: Any, eats: str) -> None:
    """A whole model from its three parts of torch, on padded rows; the answer of the last real step or of the mean."""
    theirs, width = MODELS[model].double(), 12 if model.bidirectional else 6
    source = nn.Embedding(19, 6) if eats == "tokens" else nn.Linear(4, 6)
    head = nn.Linear(width, 3)
    x = torch.randint(19, (2, 8)) if eats == "tokens" else torch.randn(2, 8, 4)
    mask = torch.arange(8) < torch.tensor([[8], [5]])
    h = theirs(source(x))[0]
    ours = from_reference(model, theirs, input=source, output=head)
    torch.testing.assert_close(ours(x), head(h), atol=1e-5, rtol=1e-5)
    short = theirs(source(x[1:, :5]))[0]
    pooled = [rows.mean(dim=1) if model.bidirectional else rows[:, -1] for rows in (h[:1], short)]
    ours = from_reference(model, theirs, input=source, output=head, gives="one")
    torch.testing.assert_close(ours(x, mask), head(torch.cat(pooled)), atol=1e-5, rtol=1e-5)


REFUSED = {
    "proj_size": nn.LSTM(4, 6, proj_size=2),
    "nonlinearity": nn.RNN(4, 6, nonlinearity="relu"),
    "bias": nn.GRU(4, 6, bias=False),
    "Linear": nn.Linear(4, 6),
    "GRUCell": nn.GRUCell(4, 6),
}


@pytest.mark.parametrize("word", REFUSED)
def test_refuses_what_it_does_not_compute(word: str) -> None:
    with pytest.raises(UserError, match=word):
        to_recurrent(REFUSED[word])


@pytest.mark.parametrize(
    ("model", "module", "word"),
    [
        (LSTM, nn.GRU(6, 6), "torch.nn.LSTM"),
        (LSTM, nn.LSTM(6, 6, bidirectional=True), "torch.nn.LSTM"),
        (BiGRU, nn.GRU(6, 6), "bidirectional torch.nn.GRU"),
        (GRU, nn.GRU(5, 6), "input_size = 5"),
    ],
)
def test_models_refuse_another_kind(model: Any, module: nn.Module, word: str) -> None:
    with pytest.raises(UserError, match=word):
        from_reference(model, module, input=nn.Linear(4, 6), output=nn.Linear(6, 3))
