"""docs/benchmarks.md: readable from a file with little in it, and in step with results/."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks are not installed

from benchmarks.__main__ import TABLES
from benchmarks.page import PAGE, render

SECONDS = {"against": "peer 1.0", "ours": 0.0125, "peer": 0.015, "ratio": 1.2, "low": 1.1, "high": 1.3}


def page(folder: Path, **found: Any) -> list[str]:
    (folder / "bench-made-up.json").write_text(json.dumps({"command": "python -m benchmarks.made_up", **found}))
    return render(folder).splitlines()


def test_a_row_says_what_was_measured_and_whether_the_goal_is_met(tmp_path: Path) -> None:
    lines = page(
        tmp_path,
        ratios={"quick": 1.2, "slow": 0.8, "bytes": 1.1, "bare": 2.0},
        goals={"quick": 1.5, "slow": 1.0, "bytes": 1.0, "bare": 2.0},
        rows={
            "quick": SECONDS,
            "slow": {"unit": "s", "ours": 2.0, "peer": 1.6, "tokens_per_second": 1500, "peer_tokens_per_second": 1875},
            "bytes": {"unit": "MiB", "ours": 1000, "peer": 1100},
        },
    )
    assert "| quick | 12.5 ms | 15.0 ms (peer 1.0) | 1.20 (1.10–1.30) | 1.5 | **missed** |" in lines
    assert "| slow | 1,500 tokens/s | 1,875 tokens/s | 0.800 | 1 | **missed**, slower |" in lines
    assert "| bytes | 1,000 MiB | 1,100 MiB | 1.10 | 1 | met |" in lines
    assert "| bare | – | – | 2.00 | 2 | met |" in lines
    assert "| [made-up](#made-up) | 4 | 2 | 2 | 0 | 0 |" in lines
    assert "  - quick: 1.20 (1.10–1.30), goal 1.5" in lines and "  - slow: 0.800, goal 1" in lines


@pytest.mark.parametrize(("ratio", "verdict"), [(0.999, "slower"), (1.0, "faster")])
def test_a_row_without_a_goal_is_faster_or_slower(tmp_path: Path, ratio: float, verdict: str) -> None:
    lines = page(tmp_path, ratios={"one": ratio}, rows={"one": SECONDS})
    assert any(line.startswith("| one |") and line.endswith(f"| – | {verdict} |") for line in lines)
    assert ("  - one: 0.999 (1.10–1.30)" in lines) == (verdict == "slower")


def test_origin_facts_and_figures_without_a_ratio_are_shown(tmp_path: Path) -> None:
    (tmp_path / "bench-made-up.png").touch()
    origin = {"commit": "abc1234", "date": "2026-01-02", "machine": "a machine", "threads": 2}
    lines = page(tmp_path, **origin, rows={"a|b": {"lengths": [1024, 2048], "exponent": 1.5}}, facts={"same": True})
    assert "`python -m benchmarks.made_up` · commit abc1234 · 2026-01-02 · a machine · 2 threads" in lines
    assert "![made-up](../results/bench-made-up.png)" in lines
    assert "| a\\|b | 1,024 · 2,048 | 1.5 |" in lines and "- same: yes" in lines


def test_the_page_is_what_the_results_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m benchmarks.page"


def test_every_table_can_be_run_and_the_page_comes_last() -> None:
    assert all(find_spec(f"benchmarks.{name}") for name in TABLES)
    assert list(TABLES)[-2:] == ["plot", "page"]
