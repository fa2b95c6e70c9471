"""One step in numbers: each figure against the formula that is printed beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from oliveira.errors import UserError
from oliveira.study.explanation import DECAY, WORDS, Explanation, explain

SMALL: dict[str, Any] = dict(d_model=8, n_layers=1)


@pytest.fixture(params=["probe/adding", "probe/selective-copying"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Explanation:
    return explain("mamba", request.param, home=tmp_path, lr=1e-3, **SMALL)


def test_both_gradients_agree(made: Explanation) -> None:
    assert made.gradient != 0 and made.disagreement < 1e-4


def test_updates_are_their_formulas(made: Explanation) -> None:
    sgd, adamw = made.steps
    assert sgd.weight == pytest.approx(made.value - made.lr * made.gradient, abs=1e-6)
    sign = 1 if made.gradient > 0 else -1
    assert adamw.weight == pytest.approx(made.value - made.lr * sign - made.lr * DECAY * made.value, abs=1e-6)


def test_loss_falls_as_foreseen(made: Explanation) -> None:
    """To first order: a small step."""
    tiny = explain("mamba", made.task, lr=1e-4, **SMALL)
    foreseen, happened = tiny.foreseen - tiny.loss, tiny.steps[0].loss - tiny.loss
    assert foreseen < 0 and happened == pytest.approx(foreseen, rel=0.1, abs=2e-6)
    assert made.steps[0].loss < made.loss


def test_predictions(made: Explanation) -> None:
    for shown in made.predictions:
        if shown.probability is None:
            assert shown.error == pytest.approx(shown.predicted - shown.target)
        else:
            assert 0 < shown.probability < 1 and shown.error == pytest.approx(shown.probability - 1)
    assert (made.predictions[0].probability is None) == (made.task == "probe/adding")


def test_adamw_is_torchs_first_step(tmp_path: Path) -> None:
    import torch

    from oliveira.runs.run import build
    from oliveira.study.explanation import _chosen
    from oliveira.tasks.catalogue import pair

    task, found = pair("probe/adding", "lstm")
    data = task.open(tmp_path, lambda text: None)
    network = build(task, data, found, SMALL, seed=0).eval()
    batch = data.batch(0, seed=0, size=4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=DECAY)
    data.objective(network, batch).backward()
    name, place = _chosen(network, "")
    optimizer.step()
    shown = explain("lstm", "probe/adding", home=tmp_path, lr=1e-3, **SMALL)
    assert shown.steps[1].weight == pytest.approx(network.get_parameter(name)[place].item(), abs=1e-6)
    assert shown.steps[1].loss == pytest.approx(data.objective(network, batch).item(), abs=1e-6)


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformer": ("probe/adding", dict(d_model=8, n_heads=2, d_ff=8)),
    "seq2seq": ("probe/reverse", dict(d_model=8)),
    "moe": ("probe/listops", dict(d_model=8, n_heads=2, n_kv_heads=1, d_ff=8)),
}


@pytest.mark.parametrize("model", OTHERS)
def test_other_kinds(model: str) -> None:
    """A class that chooses its subclass; pairs; a loss with a term of the model's own."""
    task, sizes = OTHERS[model]
    assert explain(model, task, **sizes).disagreement < 1e-4


def test_without_a_task_a_probe_that_fits(tmp_path: Path) -> None:
    assert explain("seq2seq", home=tmp_path, d_model=8).task == "probe/reverse"
    with pytest.raises(UserError, match="does not fit"):
        explain("seq2seq", "probe/adding")


def test_a_named_weight_and_a_wrong_one() -> None:
    shown = explain("mamba", "probe/adding", weight="blocks.0.mixer.log_a", **SMALL)
    assert shown.weight.startswith("blocks.0.mixer.log_a[") and shown.disagreement < 1e-3
    with pytest.raises(UserError, match="--weight 'nothing'"):
        explain("mamba", "probe/adding", weight="nothing", **SMALL)


def test_both_languages_say_the_same(made: Explanation) -> None:
    assert WORDS["en"].keys() == WORDS["pt"].keys()
    english, portuguese = made.text("en").splitlines(), made.text("pt").splitlines()
    assert len(english) == len(portuguese) and english != portuguese
    for line in (english, portuguese):
        assert f"{made.loss:.6f}" in "".join(line) and made.weight in "".join(line)


def test_command(tmp_path: Path) -> None:
    import typer

    from oliveira.cli import inspect as commands

    app = typer.Typer()
    app.command()(commands.explain)
    shown = CliRunner().invoke(app, ["lstm", "d_model=8", "--home", str(tmp_path)], env={"OLIVEIRA_LANG": "pt-BR"})
    assert shown.exit_code == 0 and "retropropagação" in shown.output
    as_json = CliRunner().invoke(app, ["lstm", "d_model=8", "--json"])
    assert json.loads(as_json.output)["steps"][0]["rule"] == "sgd"
