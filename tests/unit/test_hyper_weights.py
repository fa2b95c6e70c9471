"""Made weights: shapes, batches of conditions, the main network, sizes; HyperLSTM: padding, gradcheck, its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.errors import UserError
from oliveira.nn.hyper import ChunkedHyperMLP, HyperLSTMLayer, HyperMLP, main_mlp, mlp_shapes, split
from oliveira.registry import create

SHAPES = mlp_shapes([4, 6, 3])


def test_split_takes_every_number_once_and_in_order() -> None:
    flat = torch.arange(2 * 51).view(2, 51)
    parts = split(flat, SHAPES)
    assert [tuple(p.shape) for p in parts] == [(2, 6, 4), (2, 6), (2, 3, 6), (2, 3)]
    assert torch.equal(torch.cat([p.flatten(1) for p in parts], dim=1), flat)


@pytest.mark.parametrize("hyper", [HyperMLP(SHAPES, 5), ChunkedHyperMLP(SHAPES, 5, chunk_size=20)])
def test_a_batch_of_conditions_is_each_by_itself(hyper: nn.Module) -> None:
    conditions, x = torch.randn(2, 3, 5), torch.randn(2, 3, 7, 4)
    together = main_mlp(x, hyper(conditions))
    assert together.shape == (2, 3, 7, 3)
    for i in range(2):
        for j in range(3):
            alone = main_mlp(x[i, j], hyper(conditions[i, j]))
            torch.testing.assert_close(together[i, j], alone, atol=1e-5, rtol=1e-5)


def test_main_mlp_is_an_mlp() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(5, 4)
    torch.testing.assert_close(main_mlp(x, list(network.parameters())), network(x))


def test_outputs_start_at_unit_variance() -> None:
    for hyper in (HyperMLP([(50, 50)], 16), ChunkedHyperMLP([(50, 50)], 8, chunk_size=100)):
        made = torch.stack([hyper(torch.randn(64, 16 if isinstance(hyper, HyperMLP) else 8))[0]])
        assert 0.5 < made.std() < 2.0


@pytest.mark.parametrize("chunk_size", [1, 50, 51, 52, 1000])
def test_chunks_make_exactly_the_weights_that_are_needed(chunk_size: int) -> None:
    hyper = ChunkedHyperMLP(SHAPES, chunk_size=chunk_size)
    assert len(hyper.chunks) == -(-51 // chunk_size)
    assert [tuple(w.shape) for w in hyper()] == SHAPES


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_hypernetwork_is_stored_in_fewer_numbers_than_what_it_makes() -> None:
    model: Any = create("hypernetwork", d_in=7, max_len=168, d_out=24)
    made = sum(weight.numel() for weight in model.weights())
    direct = size(create("mlp", d_in=7, max_len=168, d_out=24, d_model=128, n_layers=2))
    assert made == direct and size(model) < made / 8


def test_hypernetwork_starts_at_the_scale_of_a_fresh_mlp() -> None:
    model: Any = create("hypernetwork", d_in=7, max_len=100, d_out=24)
    weights = model.weights()
    for weight in weights[::2]:
        assert 0.6 < weight.std() / (2 / weight.shape[1]) ** 0.5 < 1.6
    assert 0.2 < model(torch.randn(64, 100, 7)).std() < 4


@pytest.mark.parametrize(("changes", "word"), [({"n_layers": 0}, "n_layers"), ({"chunk_size": 0}, "chunk_size")])
def test_config_refuses(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        create("hypernetwork", d_in=2, max_len=3, d_out=2, **changes)


def test_hyperlstm_leaves_its_state_alone_in_padding() -> None:
    """Padding on the left, on the right and in between: the real steps alone count."""
    layer, x = HyperLSTMLayer(3, 5, 4, 2), torch.randn(2, 6, 3)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    spread = torch.full((2, 7, 3), 9.0)
    for row in range(2):
        spread[row, mask[row]] = x[row, : int(mask[row].sum())]
    got = layer(spread, mask)
    for row in range(2):
        alone = layer(x[row : row + 1, : int(mask[row].sum())])[0]
        torch.testing.assert_close(got[row, mask[row]], alone, atol=1e-6, rtol=1e-5)
    assert torch.equal(got[1, 4:], got[1, 3:4].expand(3, -1)) and (got[0, 0] == 0).all()


def test_hyperlstm_gradcheck() -> None:
    layer = HyperLSTMLayer(2, 3, 3, 2).double()
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_hyperlstm_weights_do_change_with_what_is_read() -> None:
    """With the small LSTM's voice cut off (D = 0 but for a constant), another function remains."""
    layer, x = HyperLSTMLayer(3, 5, 4, 2), 3 * torch.randn(2, 8, 3)
    nn.init.normal_(layer.squeeze)
    nn.init.normal_(layer.expand)
    with_voice = layer(x)
    nn.init.zeros_(layer.squeeze)
    assert (with_voice - layer(x)).abs().max() > 0.05


def test_hyperlstm_with_a_mute_small_one_is_a_normalised_lstm() -> None:
    """Z = 0 and D = 1/d_embedding: every row keeps its scale, and an LSTM with layer normalisation is left."""
    layer, x = HyperLSTMLayer(3, 5, 4, 2), torch.randn(2, 8, 3)
    nn.init.zeros_(layer.squeeze)
    nn.init.constant_(layer.expand, 0.5)
    h, c = torch.zeros(2, 5), torch.zeros(2, 5)
    states: list[Tensor] = []
    for now in x.unbind(1):
        gates = F.layer_norm((layer.input(now) + h @ layer.hidden.T).unflatten(1, (4, 5)), (5,))
        i, f, o, g = gates.unbind(1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * F.layer_norm(c, (5,)).tanh()
        states.append(h)
    torch.testing.assert_close(layer(x), torch.stack(states, dim=1), atol=1e-6, rtol=1e-5)
