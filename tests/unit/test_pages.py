"""Pages say what the results hold: every figure with its unit, what was expected, what was lost; nothing by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from oliveira.errors import UserError
from oliveira.registry import entries
from oliveira.study import comparison_pages, model_pages, quotes, recipes
from oliveira.study.figures import FIGURES, words
from oliveira.study.provenance import ROOT

MODELS, COMPARISONS = ROOT / "docs" / "models", ROOT / "docs" / "comparisons"
RENEW = "say `oliveira pages`"


def result(**changes: Any) -> dict[str, Any]:
    made = {
        "recipe": "x",
        "command": "oliveira reproduce x",
        "commit": "0123456789ab",
        "files": {"model": {"a.py": "1"}},
        "losses": [1.0],
        "title": "X",
        "task": "t/x",
        "model": "lstm",
        "seeds": [0, 1, 2],
        "device": "here",
        "minutes": 1.5,
        "parameters": 1234,
        "metric": {"name": "MAE", "better": "lower", "unit": "kW", **recipes.measured([0.40, 0.42, 0.44])},
        "test": {"MAE": 0.42, "MSE": 0.39},
        "test_std": {"MAE": 0.02, "MSE": 0.0},
        "validation": {"MAE": 0.4567, "MSE": 0.3},
        "baselines": {"ridge": 0.3, "yesterday": 0.6},
        "beats": {"ridge": False, "yesterday": True},
        "expect": {"at_most": 0.5},
        "met": {"at_most": True},
    }
    return made | changes


def told(kept: dict[str, Any], **recipe: Any) -> str:
    return "\n".join(words(kept, recipe))


def test_the_pages_of_the_models_are_what_the_program_writes(tmp_path: Path) -> None:
    model_pages.write_pages(tmp_path)
    assert {path.name for path in MODELS.iterdir()} == {path.name for path in tmp_path.iterdir()}, RENEW
    stale = [path.name for path in MODELS.iterdir() if path.read_bytes() != (tmp_path / path.name).read_bytes()]
    assert not stale, RENEW


def test_the_comparisons_are_what_the_program_writes() -> None:
    pages = comparison_pages.pages(COMPARISONS)
    assert set(pages) == set(COMPARISONS.rglob("*.md")), RENEW
    assert not [str(path) for path, text in pages.items() if path.read_text(encoding="utf-8") != text], RENEW


@pytest.mark.parametrize("name", ["README.md", "README.pt-BR.md"])
def test_a_readme_quotes_what_is_stored(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert quotes.quoted(text, quotes.language_of(Path(name))) == text, RENEW


def test_every_figure_of_a_result_is_known() -> None:
    for name in recipes.names():
        if kept := recipes.stored(name):
            assert kept["test"].keys() <= FIGURES.keys(), f"{name}: say in oliveira/study/figures.py what these are"
            assert FIGURES[kept["metric"]["name"]].better == kept["metric"]["better"]


def test_the_page_of_each_recipe_shows_all_that_was_measured() -> None:
    found = recipes.results_by_model()
    for entry in entries():
        page = model_pages.page(entry, found.get(entry.name, []))
        for kept in found.get(entry.name, []):
            part = page.split(f"`{kept['command']}`\n")[1].split("\n### ")[0]
            for figure in kept["test"]:
                assert f"| test {figure} |" in part
            assert f"**{kept['metric']['mean']:#.4g}" in part
            for baseline, beaten in kept["beats"].items():
                level = f"| {baseline} | {kept['baselines'][baseline]:#.4g} |"
                assert f"{level} {'beaten' if beaten else '**not beaten**'} |" in part
                assert beaten or f"loses to {baseline} (" in part or f", {baseline} (" in part
            assert part.count("not met") + part.count("did not fail") == list(kept["met"].values()).count(False)
            assert recipes.is_verified(kept) != ("before results carried digests" in part)


def test_a_row_a_figure_with_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_pages, "load", lambda name: {})
    lines = model_pages._result(result())
    assert "| test MAE | **0.4200 ± 0.02** | ↓ kW; seeds 0, 1, 2 |" in lines
    assert "| test MSE | 0.3900 | ↓ variances of the training series |" in lines
    assert "| validation MAE | 0.4567 | settings were chosen there |" in lines
    assert "| band | 0.3600 … 0.4800 | where another machine's mean should fall |" in lines
    assert "| ridge | 0.3000 | **not beaten** |" in lines and "| yesterday | 0.6000 | beaten |" in lines


def test_what_a_reader_must_not_have_to_work_out() -> None:
    assert "**lstm loses to ridge (0.3000)** with its MAE of 0.4200" in told(result())
    won = result(baselines={"a": 0.6, "b": 0.5}, beats={"a": True, "b": True})
    assert "beats every level beside it, the best of them b (0.5000)" in told(won) and "loses" not in told(won)
    assert "Too close to call by these seeds (within twice the standard error): ridge" in told(
        result(baselines={"ridge": 0.43, "far": 0.6})
    )
    assert "Expected: MAE at most 0.5000; met" in told(result())
    assert "**not met**" in told(result(met={"at_most": False}))
    assert "here to fail beside `y`, as it should" in told(result(), fails_beside="y")
    assert "**and it did not fail**" in told(result(met={"at_most": False}), fails_beside="y")
    assert "not be of the code" in told(result(files={})) and "not be of the code" not in told(result())


@pytest.mark.parametrize(
    ("value", "std", "chance"),
    [(0.49, 0.0, True), (0.505, 0.0, True), (0.52, 0.0, False), (0.52, 0.02, True), (0.6, 0.01, False)],
)
def test_no_better_than_chance_is_said(value: float, std: float, chance: bool) -> None:
    kept = result(test={"NSP accuracy": value}, test_std={"NSP accuracy": std})
    assert (f"NSP accuracy of {value:.3f} is no better than chance (0.5)" in told(kept)) == chance


def test_the_index_says_who_loses_and_what_is_not_verified() -> None:
    assert model_pages._short(result()) == "t/x: 0.4200 ± 0.02 kW MAE (loses to ridge)"
    kept = result(beats={"ridge": True}, met={"at_most": False}, commit="abc-dirty")
    assert model_pages._short(kept) == "t/x: 0.4200 ± 0.02 kW MAE (not as expected; not verified)"
    index = model_pages.index({"lstm": [kept]})
    assert "Not verified: measured before results carried digests" in index
    assert "Not verified" not in model_pages.index({"lstm": [result()]})


def test_quotes_put_the_test_split_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "stored", lambda name: result() if name == "x" else None)
    text = "before\n<!-- result x -->\nold 0.1\nand older\n<!-- end of result -->\nafter\n"
    for language, mean, validation in (("en", "0.4200", "0.4567"), ("pt", "0,4200", "0,4567")):
        made = quotes.quoted(text, language)
        assert made.startswith("before\n<!-- result x -->\n- ") and made.endswith("\n<!-- end of result -->\nafter\n")
        assert "old" not in made and 0 < made.index(f"**{mean} MAE") < made.index(validation)
        assert quotes.quoted(made, language) == made
    assert "loses to ridge" in quotes.quoted(text, "en") and "perde para ridge" in quotes.quoted(text, "pt")
    with pytest.raises(UserError, match="quotes the result 'y', which is not stored"):
        quotes.quoted(text.replace("result x", "result y"), "en")


@pytest.mark.parametrize("language", ["en", "pt"])
def test_the_seed_s_answers_follow_from_the_figures(language: str, tmp_path: Path) -> None:
    shutil.copytree(COMPARISONS, tmp_path / "c")
    path = tmp_path / "c" / comparison_pages.SERIES / "compare.json"
    kept = json.loads(path.read_bytes())
    kept["models"]["lstm"] |= {"mean": 9.5, "std": 0.01, "seconds": kept["models"]["mlp"]["seconds"] * 7}
    path.write_text(json.dumps(kept))
    words = comparison_pages.WORDS[language]
    text = comparison_pages.pages(tmp_path / "c")[tmp_path / "c" / comparison_pages.FILES[language][0]]
    lstm, attention, gru = text.split("**")[2::2]
    assert words["worse"] in lstm and ("9.5000" if language == "en" else "9,5000") in lstm
    assert " 7 times" in lstm or " 7 vezes" in lstm
    assert words["better"] in gru and words["worse"] in attention
