"""The verdict follows from the figures, in both languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import oliveira
from oliveira.errors import UserError
from oliveira.study.comparison import separable, verdict


def result(better: str = "lower", **models: list[float]) -> dict[str, Any]:
    rows = {
        name: {
            "values": values,
            "mean": sum(values) / len(values),
            "std": (max(values) - min(values)) / 2,
            "parameters": 100 * (number + 1),
            "seconds": 2.0 * (number + 1),
            "flops": 1e9,
        }
        for number, (name, values) in enumerate(models.items())
    }
    ordered = dict(sorted(rows.items(), key=lambda row: row[1]["mean"], reverse=better == "higher"))
    return {
        "task": "t/x",
        "metric": {"name": "error", "better": better, "unit": ""},
        "seeds": list(range(len(next(iter(models.values()))))),
        "device": "here",
        "baselines": {"naive": 1.0},
        "models": ordered,
    }


@pytest.mark.parametrize(
    ("language", "clear", "tie"), [("en", "is best", "cannot be told apart"), ("pt", "é o melhor", "não se distinguem")]
)
def test_a_winner_needs_more_than_noise(language: str, clear: str, tie: str) -> None:
    apart = result(lstm=[0.5, 0.51, 0.52], mlp=[0.9, 0.91, 0.92])
    said = verdict(apart, language)
    assert clear in said[0] and said[0].startswith("**lstm**")
    mixed = result(lstm=[0.5, 0.9, 0.7], mlp=[0.6, 0.9, 0.75])
    assert tie in verdict(mixed, language)[0]
    assert separable(*apart["models"].values()) and not separable(*mixed["models"].values())


def test_higher_is_better_turns_the_order_and_the_baseline() -> None:
    said = verdict(result("higher", lstm=[0.5, 0.51, 0.52], mlp=[1.9, 1.91, 1.92]), "en")
    assert said[0].startswith("**mlp** is best")
    assert any(line.startswith("mlp beat naive") for line in said)
    assert any(line.startswith("lstm do not beat naive") for line in said)


def test_one_seed_says_so() -> None:
    said = verdict(result(lstm=[0.5], mlp=[0.9]), "en")
    assert "One seed" in said[0]


@pytest.mark.slow
def test_a_comparison_end_to_end(tmp_path: Path) -> None:
    made = oliveira.compare("probe/adding", ["lstm", "gru"], seeds=2, budget="steps=3", home=tmp_path)
    folder = tmp_path / "comparisons" / "probe-adding-lstm-gru"
    for name in ("compare.json", "compare.png", "report.md", "report.pt-BR.md"):
        assert (folder / name).stat().st_size > 100
    assert set(made.result["models"]) == {"lstm", "gru"} and "Verdict" in made.text
    assert "Veredito" in (folder / "report.pt-BR.md").read_text(encoding="utf-8")
    assert {row["steps"] for row in made.result["models"].values()} == {3}
    with pytest.raises(UserError, match="two models or more"):
        oliveira.compare("probe/adding", ["lstm", "lstm"], home=tmp_path)
