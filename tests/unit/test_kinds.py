"""Kinds as data: examples, lengths, and that nobody asks for one by its name or counts its dimensions."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from oliveira import kinds
from oliveira.errors import UserError
from oliveira.export import forward
from oliveira.export.forward import AXES, ForwardRunner, export_forward
from oliveira.registry import create, entry

ROOT = Path(__file__).parents[2]
READERS = [
    "oliveira/study/inspection.py",
    "oliveira/study/explanation.py",
    "oliveira/export/forward.py",
    "oliveira/runs/predict.py",
]
READERS += ["oliveira/registry.py", "oliveira/tasks/catalogue.py", "tests/contract/checks.py"]


@pytest.mark.parametrize("name", kinds.EATS)
def test_an_example_is_of_its_kind(name: str) -> None:
    kind, sizes = kinds.eats(name), kinds.sizes_of((name, "one"))
    arrays = kind.example(sizes, batch=3, steps=5, source=7)
    assert kind.count(arrays) == 3 and all(
        torch.equal(a, b) for a, b in zip(arrays, kind.example(sizes, batch=3, steps=5, source=7), strict=True)
    )
    assert list(kind.named(arrays)) == [argument.name for argument in kind.arguments]
    for array, argument in zip(arrays, kind.arguments, strict=True):
        assert len(array.shape) == len(argument.axes) and str(array.dtype) == f"torch.{argument.dtype}"
        if argument.dtype == "int64":
            assert array.min() >= 0 and array.max() < sizes[str(argument.below)]
    doubled = kind.two_rows([array.numpy() for array in arrays])
    assert all(np.array_equal(two, np.stack([one[0], one[0]])) for one, two in zip(arrays, doubled, strict=True))
    assert kind.example(sizes, batch=1)[-1].shape[1] in (sizes.get("max_len"), sizes.get("channels"))


def test_steps_are_what_may_be_too_long() -> None:
    source, target = np.zeros((2, 7)), np.zeros((2, 5))
    assert kinds.eats("pairs").steps([source, target]) == [7, 5]
    assert kinds.eats("pairs").steps([source, target, np.ones((2, 7))]) == [7, 5, 7]
    assert kinds.eats("image").steps([np.zeros((2, 1, 99, 99))]) == []
    assert kinds.eats("series").steps([np.zeros((2, 9, 4))]) == [9]


def test_what_a_form_sets() -> None:
    assert kinds.sizes_of(("pairs", "next"))["d_out"] == kinds.eats("pairs").sizes["target_vocab_size"]
    assert kinds.sizes_of(("tokens", "mlm+nsp"), {"vocab_size": 7, "channels": 3}) == {
        "vocab_size": 7,
        "max_len": 128,
        "d_out": 7,
    }
    assert entry("lstm").heads == ("steps", "one", "next") and entry("mlp").heads == ("one",)
    assert entry("lstm").in_words == "tokens → steps, one, next; series → steps, one"
    assert entry("mlp").in_words == "tokens, series, image → one"


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"eats = 'token' is not a kind. Did you mean tokens"):
        kinds.eats("token")
    with pytest.raises(UserError, match=r"gives = 'zzz' is not a kind. Did you mean one, steps"):
        kinds.gives("zzz")


@pytest.mark.parametrize("path", READERS)
def test_nobody_asks_for_a_kind_by_its_name(path: str) -> None:
    names = kinds.EATS.keys() | kinds.GIVES.keys()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        asked = [*node.comparators, node.left] if isinstance(node, ast.Compare) else []
        asked += [node.value] if isinstance(node, ast.MatchValue) else []
        for part in asked:
            held = part.elts if isinstance(part, ast.Tuple) else [part]
            assert not {value.value for value in held if isinstance(value, ast.Constant)} & names, ast.unparse(node)
        assert not (isinstance(node, ast.Attribute) and node.attr == "ndim"), ast.unparse(node)


@pytest.mark.slow
@pytest.mark.parametrize("fixed", [False, True], ids=["free", "fixed"])
def test_a_graph_of_an_older_program_runs(fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file tells no axes: they are what they were. Where the exporter cannot keep steps free they are fixed."""
    made = forward._export

    def refuses(*arguments: Any, free: bool) -> bytes:
        if free:
            raise torch.onnx.errors.OnnxExporterError("no")
        return made(*arguments, free=free)

    monkeypatch.setattr(forward, "_export", refuses if fixed else made)
    form, kind = ("series", "steps"), kinds.eats("series")
    sizes = {"d_in": 3, "d_out": 4, "max_len": 9}
    model = create("gru", **{**entry("gru").tiny, **entry("gru").sizes(form, sizes)}).eval()
    lengths = export_forward(model, kind.example(sizes, steps=7), tmp_path / "new.onnx", form, max_len=9)
    assert lengths == ({"x": "fixed at 9", "mask": "fixed at 9"} if fixed else {"x": "free"})
    old = onnx.load(tmp_path / "new.onnx")
    kept = [prop for prop in old.metadata_props if prop.key != AXES]
    assert len(kept) == len(old.metadata_props) - 1
    del old.metadata_props[:]
    old.metadata_props.extend(kept)
    onnx.save(old, tmp_path / "old.onnx")
    new, older = ForwardRunner(tmp_path / "new.onnx"), ForwardRunner(tmp_path / "old.onnx")
    assert new.lengths == older.lengths == dict.fromkeys(lengths, 9 if fixed else None)
    for steps in (5, 9):
        (x,) = kind.example(sizes, batch=3, steps=steps)
        assert np.array_equal(new(x.numpy()), older(x.numpy()))
        with torch.no_grad():
            np.testing.assert_allclose(new(x.numpy()), model(x).numpy(), atol=1e-5)
