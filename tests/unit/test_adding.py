"""docs/adding.md does what it says: its code is run as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from oliveira import kinds, registry
from oliveira.runs.run import fit
from oliveira.tasks.catalogue import tasks

GUIDE = Path(__file__).parents[2] / "docs" / "adding.md"
sys.path.append(str(Path(__file__).parents[1] / "contract"))
from checks import CHECKS  # noqa: E402

EXPORTS = "onnx_equals_torch"  # takes seconds


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The guide's files by name, entered into a catalogue of this test."""
    registry.entries()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(kinds, "EATS", dict(kinds.EATS))
    made = {}
    for place, code in re.findall(r"```python\n# (\S+)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S):
        assert place == "oliveira/kinds.py" or not (GUIDE.parents[1] / place).exists(), f"{place} is there already"
        module = ModuleType(f"adding_{Path(place).stem}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(code, place, "exec"), vars(module))
        made[Path(place).stem] = module
    for task in made["waves"].TASKS:
        monkeypatch.setitem(tasks(), task.name, task)
    return made


def test_the_model_meets_a_task_that_it_never_heard_of(added: dict[str, ModuleType]) -> None:
    model = registry.create("dan", vocab_size=50, d_out=3)
    tokens = torch.randint(50, (2, 7))
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    alone = model(tokens[1:, :4])
    torch.testing.assert_close(model(tokens, mask)[1:], alone)
    assert "dan" in [entry.name for entry in registry.entries() if entry.fits("tokens", "one")]


def test_the_task_is_learnt_and_answers(added: dict[str, ModuleType], tmp_path: Path) -> None:
    run = fit("classify/waves", model="gru", budget="steps=100", home=tmp_path, d_model=16)
    assert run.metric > 0.85 > fit("classify/waves", model="gru", budget="steps=1", home=tmp_path, d_model=16).metric
    model, task = run.load(), tasks()["classify/waves"]
    state, request = added["waves"].WavesData().state(), added["waves"].WavesData().request()
    answer = task.answer(state, lambda x: model(torch.from_numpy(x)).detach().numpy(), request)
    assert answer["label"] in ("sine", "square")


def test_the_kind_is_one_that_models_may_name(added: dict[str, ModuleType]) -> None:
    entry = registry.entry("deepsets")
    x = kinds.eats("set").example(entry.sizes(("set", "one")), batch=2, members=5)[0]
    model = registry.create("deepsets", **entry.sizes(("set", "one")))
    torch.testing.assert_close(model(x), model(x.flip(1)))
    assert x.shape == (2, 5, 3) and kinds.eats("set").arguments[0].places(ordered=True) == []


@pytest.mark.parametrize("name", [name for name in CHECKS if name != EXPORTS])
def test_the_model_passes_the_contract(added: dict[str, ModuleType], name: str) -> None:
    """Every check, without a line of one's own, as the guide says; what it says to fail does."""
    entry = registry.entry("dan")
    if name in entry.xfail:
        with pytest.raises(AssertionError):
            CHECKS[name](entry, ("tokens", "one"))
    else:
        CHECKS[name](entry, ("tokens", "one"))
