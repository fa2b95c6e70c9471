"""`hypernetwork` against hypnettorch, `hyperlstm` against a loop written from the paper, and against labml_nn.

labml_nn needs packages that do not go with this torch, so its answers are recorded: hyperlstm_labml.safetensors holds
weights, input, outputs and input gradient of a HyperLSTM of labml-nn 0.5.1 (in its metadata: how it was made). The loop
below carries its parameter names, so that the converter that reads labml's module reads this one too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypnettorch.hnets import HMLP, ChunkedHMLP
from safetensors.torch import load_file
from torch import Tensor, nn

from oliveira.convert import from_reference
from oliveira.convert.hyper import layer_from_reference
from oliveira.errors import UserError
from oliveira.models.hyperlstm import HyperLSTM as Ours
from oliveira.models.hypernetwork import Hypernetwork
from oliveira.nn.hyper import ChunkedHyperMLP, HyperMLP, mlp_shapes

SHAPES = mlp_shapes([6, 7, 5])
QUIET: dict[str, Any] = dict(verbose=False)


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return module


def close(got: list[Tensor], expected: list[Tensor]) -> None:
    assert [g.shape for g in got] == [e.shape for e in expected]
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def linear_state(parameters: list[Tensor]) -> dict[str, Tensor]:
    names = [f"layers.{i}.{part}" for i in range(len(parameters) // 2) for part in ("weight", "bias")]
    return dict(zip(names, parameters, strict=True))


@pytest.mark.parametrize("hidden", [(), (11,), (11, 9)])
def test_hyper_mlp_against_hypnettorch(hidden: tuple[int, ...]) -> None:
    """The weights for one condition and for a batch of them, and the gradient at the condition."""
    theirs = randomise(
        HMLP([list(s) for s in SHAPES], cond_in_size=3, layers=hidden, no_cond_weights=True, num_cond_embs=0, **QUIET)
    )
    ours = HyperMLP(SHAPES, 3, hidden)
    ours.load_state_dict(linear_state(list(theirs.internal_params)))
    condition = torch.randn(4, 3, requires_grad=True)
    expected = theirs(cond_input=condition)
    together = ours(condition)
    for row in range(4):
        close([w[row] for w in together], expected[row])
        close(ours(condition[row]), expected[row])
    gradients = [
        torch.autograd.grad(sum(w.square().sum() for w in weights), condition)[0]
        for weights in (together, [w for row in expected for w in row])
    ]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [10, 89, 200])
@pytest.mark.parametrize("hidden", [(), (11, 9)])
def test_chunked_hyper_mlp_against_hypnettorch(chunk_size: int, hidden: tuple[int, ...]) -> None:
    """Pieces that end with, before and after the last weight (there are 89); a condition for all pieces."""
    theirs = randomise(
        ChunkedHMLP(
            [list(s) for s in SHAPES], chunk_size, chunk_emb_size=4, cond_in_size=3, layers=hidden,
            no_cond_weights=True, num_cond_embs=0, **QUIET,
        )
    )  # fmt: skip
    *linear, chunks = theirs.internal_params
    ours = ChunkedHyperMLP(SHAPES, 3, hidden, chunk_size=chunk_size, d_chunk=4)
    ours.load_state_dict({**linear_state(linear), "chunks": chunks})
    condition = torch.randn(4, 3)
    expected = theirs(cond_input=condition)
    for row in range(4):
        close([w[row] for w in ours(condition)], expected[row])
        close(ours(condition[row]), expected[row])


def chunked(**changes: Any) -> Any:
    options = dict(
        target_shapes=[list(s) for s in mlp_shapes([12, 7, 7, 5])], chunk_size=20, chunk_emb_size=4,
        cond_chunk_embs=True, cond_in_size=0, num_cond_embs=1, layers=(9,), **QUIET,
    )  # fmt: skip
    return randomise(ChunkedHMLP(**{**options, **changes}))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_hypernetwork_against_hypnettorch(depth: int) -> None:
    """The whole model: their weights in a plain MLP; outputs, and the gradients at input and embeddings."""
    theirs = chunked(target_shapes=[list(s) for s in mlp_shapes([12, *[7] * depth, 5])])
    ours = from_reference(Hypernetwork, theirs)
    x = torch.randn(3, 1, 1, 12, requires_grad=True)
    h, weights = x.flatten(1), theirs(cond_id=0)
    for i in range(0, len(weights), 2):
        h = F.linear(F.relu(h) if i else h, weights[i], weights[i + 1])
    got = ours(x)
    torch.testing.assert_close(got, h, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(got)
    one = torch.autograd.grad((got * direction).sum(), [x, ours.hyper.chunks])
    other = torch.autograd.grad((h * direction).sum(), [x, theirs.internal_params[-1]])
    for mine, their in zip(one, other, strict=True):
        torch.testing.assert_close(mine, their, atol=1e-5, rtol=1e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no-mlp": ({"target_shapes": [[7, 12], [7], [5, 8], [5]]}, "target_shapes"),
    "two-widths": ({"target_shapes": [list(s) for s in mlp_shapes([12, 7, 6, 5])]}, "target_shapes"),
    "deep": ({"layers": (9, 9)}, "layers"),
    "conditions": ({"num_cond_embs": 2}, "num_cond_embs"),
    "condition": ({"cond_in_size": 3}, "cond_in_size"),
    "shared-pieces": ({"cond_chunk_embs": False, "cond_in_size": 3}, "cond_chunk_embs"),
    "tanh": ({"activation_fn": nn.Tanh()}, "activation_fn"),
    "batch-norm": ({"use_batch_norm": True}, "use_batch_norm"),
    "no-bias": ({"use_bias": False}, "use_bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hypernetwork_refuses_what_it_does_not_compute(name: str) -> None:
    changes, word = REFUSED[name]
    with pytest.raises(UserError, match=word):
        from_reference(Hypernetwork, chunked(**changes))


def test_hypernetwork_refuses_another_kind() -> None:
    with pytest.raises(UserError, match="HMLP"):
        from_reference(Hypernetwork, HMLP([[7, 12], [7]], cond_in_size=3, layers=(), **QUIET))


class SmallLSTM(nn.Module):
    """An LSTM cell with layer normalisation on its gates and on what its output reads."""

    def __init__(self, d_in: int, d_hyper: int) -> None:
        super().__init__()
        self.hidden_lin = nn.Linear(d_hyper, 4 * d_hyper)
        self.input_lin = nn.Linear(d_in, 4 * d_hyper, bias=False)
        self.layer_norm = nn.ModuleList(nn.LayerNorm(d_hyper) for _ in range(4))
        self.layer_norm_c = nn.LayerNorm(d_hyper)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = (self.hidden_lin(h) + self.input_lin(x)).chunk(4, dim=-1)
        i, f, g, o = (norm(gate) for norm, gate in zip(self.layer_norm, gates, strict=True))
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * self.layer_norm_c(c).tanh(), c


class HyperLSTMCell(nn.Module):
    """Appendix A.2.2 of Ha et al., one equation a line."""

    def __init__(self, d_in: int, d_model: int, d_hyper: int, d_embedding: int) -> None:
        super().__init__()
        self.hyper = SmallLSTM(d_model + d_in, d_hyper)
        self.z_h = nn.Linear(d_hyper, 4 * d_embedding)
        self.z_x = nn.Linear(d_hyper, 4 * d_embedding)
        self.z_b = nn.Linear(d_hyper, 4 * d_embedding, bias=False)
        self.d_h = nn.ModuleList(nn.Linear(d_embedding, d_model, bias=False) for _ in range(4))
        self.d_x = nn.ModuleList(nn.Linear(d_embedding, d_model, bias=False) for _ in range(4))
        self.d_b = nn.ModuleList(nn.Linear(d_embedding, d_model) for _ in range(4))
        self.w_h = nn.ParameterList(nn.Parameter(torch.zeros(d_model, d_model)) for _ in range(4))
        self.w_x = nn.ParameterList(nn.Parameter(torch.zeros(d_model, d_in)) for _ in range(4))
        self.layer_norm = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(4))
        self.layer_norm_c = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, state: list[Tensor]) -> list[Tensor]:
        h, c, h_hat, c_hat = state
        h_hat, c_hat = self.hyper(torch.cat([h, x], dim=-1), h_hat, c_hat)
        z_h, z_x, z_b = (z(h_hat).chunk(4, dim=-1) for z in (self.z_h, self.z_x, self.z_b))
        gates = []
        for gate in range(4):
            scaled_h = self.d_h[gate](z_h[gate]) * (h @ self.w_h[gate].T)
            scaled_x = self.d_x[gate](z_x[gate]) * (x @ self.w_x[gate].T)
            gates.append(self.layer_norm[gate](scaled_h + scaled_x + self.d_b[gate](z_b[gate])))
        i, f, g, o = gates
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return [o.sigmoid() * self.layer_norm_c(c).tanh(), c, h_hat, c_hat]


class HyperLSTM(nn.Module):
    def __init__(self, d_in: int, d_model: int, d_hyper: int, d_embedding: int, n_layers: int) -> None:
        super().__init__()
        self.d_model, self.d_hyper = d_model, d_hyper
        widths = [d_in] + [d_model] * (n_layers - 1)
        self.cells = nn.ModuleList(HyperLSTMCell(width, d_model, d_hyper, d_embedding) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            state = [x.new_zeros(len(x), width) for width in (self.d_model,) * 2 + (self.d_hyper,) * 2]
            outputs = []
            for now in x.unbind(1):
                state = cell(now, state)
                outputs.append(state[0])
            x = torch.stack(outputs, dim=1)
        return x


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("length", [1, 9])
def test_hyperlstm_against_the_paper(n_layers: int, length: int) -> None:
    """The whole model on numbers: outputs and input gradients."""
    theirs = randomise(HyperLSTM(8, 8, 6, 3, n_layers))
    before, after = nn.Linear(3, 8), nn.Linear(8, 5)
    ours = from_reference(Ours, theirs, input=before, output=after)
    x = torch.randn(4, length, 3, requires_grad=True)
    expected, got = after(theirs(before(x))), ours(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(got)
    gradients = [torch.autograd.grad((y * direction).sum(), x)[0] for y in (got, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.float32  # as labml's answers were recorded
def test_hyperlstm_against_recorded_labml() -> None:
    """Ours by the converter, and the loop with the same weights, give what labml gave."""
    recorded = load_file(Path(__file__).parent / "hyperlstm_labml.safetensors")
    names = {key for key in recorded if key.startswith("weights/")}
    theirs = HyperLSTM(5, 5, 4, 3, 2)
    theirs.load_state_dict({name.removeprefix("weights/"): recorded[name] for name in names})
    pass_on = nn.Linear(5, 5)
    nn.init.eye_(pass_on.weight)
    nn.init.zeros_(pass_on.bias)
    for model in (theirs, from_reference(Ours, theirs, input=pass_on, output=pass_on)):
        x = recorded["x"].clone().requires_grad_()
        y = model(x)
        torch.testing.assert_close(y, recorded["y"], atol=1e-6, rtol=1e-5)
        (gradient,) = torch.autograd.grad((y * recorded["direction"]).sum(), x)
        torch.testing.assert_close(gradient, recorded["gradient"], atol=1e-6, rtol=1e-5)


def test_hyperlstm_on_tokens_against_the_paper() -> None:
    theirs = randomise(HyperLSTM(8, 8, 6, 3, 1))
    before, after = nn.Embedding(11, 8), nn.Linear(8, 5)
    ours = from_reference(Ours, theirs, input=before, output=after, gives="one")
    tokens = torch.randint(11, (4, 7))
    torch.testing.assert_close(ours(tokens), after(theirs(before(tokens)))[:, -1], atol=1e-5, rtol=1e-5)


def test_hyperlstm_layer_of_another_width() -> None:
    theirs = randomise(HyperLSTM(5, 8, 6, 3, 1))
    x = torch.randn(4, 7, 5)
    torch.testing.assert_close(layer_from_reference(theirs.cells[0])(x), theirs(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="input_size = 5"):
        from_reference(Ours, theirs, input=nn.Linear(3, 5), output=nn.Linear(8, 2))


def test_hyperlstm_refuses_another_kind() -> None:
    with pytest.raises(UserError, match="LSTM"):
        from_reference(Ours, nn.LSTM(4, 4), input=nn.Linear(3, 4), output=nn.Linear(4, 2))
