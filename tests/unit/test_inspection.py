"""What `describe` counts, against counts made by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from oliveira.errors import UserError
from oliveira.registry import create, entries, entry
from oliveira.runs.flops import flop_counter
from oliveira.study import inspection
from oliveira.study.inspection import describe, inspect


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "ROUNDS", 1)


class Config:
    pass


class TwoLayers(nn.Module):
    """5 → 7 → 3, the first layer called twice, and a tied pair of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 3)
        self.tied = nn.Linear(5, 5)
        self.tied.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.tied(torch.relu(self.first(self.first(x)))))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> inspection.Inspection:
    network = TwoLayers()
    monkeypatch.setattr(inspection.dataclasses, "asdict", lambda config: {})
    network.config = Config()  # type: ignore[assignment]
    return inspect(network, (torch.randn(2, 5),), model="two", eats="series", gives="one")


def test_layers(made: inspection.Inspection) -> None:
    rows = {layer.path: layer for layer in made.layers}
    assert list(rows) == ["", "first", "second", "tied"]
    assert rows["first"].calls == 2 and rows["second"].calls == 1
    assert rows["second"].output == "(2, 3)" and rows["second"].kind == "Linear"
    assert rows["first"].parameters == 30 and rows["second"].parameters == 18


def test_a_shared_weight_counts_once(made: inspection.Inspection) -> None:
    assert made.parameters == 25 + 5 + 18 + 5
    assert made.weight_bytes["fp32"] == 4 * 53 and made.weight_bytes["int8"] == 53


def test_flops_are_two_a_multiply_add(made: inspection.Inspection) -> None:
    assert made.flops == 2 * 2 * (3 * 25 + 15)
    assert made.uncounted == ["relu"]


def test_what_backward_keeps(made: inspection.Inspection) -> None:
    """The input of each linear layer, relu's output being the third's: x, first(x), relu, tied."""
    assert made.activation_bytes == 4 * 2 * 5 * 4


def test_four_bits_carry_their_scales() -> None:
    """Groups of 64 four-bit codes with a scale and a zero point of 16 bits each."""
    assert inspection.BITS["int4"] == 4 + 2 * 16 / 64


def test_flops_of_kernels_that_torch_leaves_out() -> None:
    with flop_counter() as counter, torch.no_grad():
        nn.LSTM(3, 5, batch_first=True)(torch.randn(2, 7, 3))
    assert counter.get_total_flops() == 2 * 2 * 7 * 4 * 5 * (3 + 5)
    query = torch.randn(2, 3, 6, 8)
    with flop_counter() as counter:
        nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * (2 * 2 * 3 * 6 * 6 * 8)


@pytest.mark.parametrize("name", [found.name for found in entries()])
def test_every_model_can_be_described(name: str) -> None:
    small: dict[str, Any] = {"n_layers": 1} if "n_layers" in fields(name) else {}
    found = describe(name, **small)
    assert found.parameters > 0 and found.flops > 0 and found.activation_bytes > 0
    for median, (low, high) in (
        (found.forward_ms, found.forward_ms_range),
        (found.forward_backward_ms, found.forward_backward_ms_range),
    ):
        assert 0 < low <= median <= high and found.rounds >= 1
    assert found.layers[0].path == "" and json.loads(json.dumps(found.as_json()))["model"] == name


def fields(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(entry(name).config)}


def test_the_model_is_left_as_it_was() -> None:
    model = create("lstm", d_in=3, d_out=2, gives="one").train()
    inspect(model, (torch.randn(2, 9, 3),), model="lstm", eats="series", gives="one")
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_task_sets_the_sizes(tmp_path: Path) -> None:
    found = describe("lstm", "probe/adding", home=tmp_path, batch=3, d_model=8)
    assert found.config["d_in"] == 2 and found.config["d_model"] == 8
    assert found.input[0] == "(3, 100, 2)" and found.layers[0].output == "(3, 1)"


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not in the catalogue"):
        describe("lstn")
    with pytest.raises(UserError, match="does not fit"):
        describe("vit", "probe/adding", home=tmp_path)
    with pytest.raises(UserError, match="d_modle"):
        describe("lstm", d_modle=3)


def test_command(tmp_path: Path) -> None:
    import typer

    from oliveira.cli import inspect as commands

    app = typer.Typer()
    app.command()(commands.inspect)
    shown = CliRunner().invoke(app, ["mamba", "n_layers=1"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0 and "blocks.0.mixer" in shown.output and "int4" in shown.output
    as_json = CliRunner().invoke(app, ["mamba", "n_layers=1", "--json"])
    assert json.loads(as_json.output)["config"]["n_layers"] == 1
