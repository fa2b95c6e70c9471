"""The suite itself: tests that belong together stay in one process, and what `make test` leaves out was run whole and
passed: results/long-tests.json says when and on which commit."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from oliveira.study.provenance import is_clean

ROOT = Path(__file__).parents[2]


def long_tests() -> set[str]:
    """`path::function` of every test marked long, read without running anything."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        whole = any("mark.long" in ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign))
        tests = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
        for node in tests:
            if whole or any("mark.long" in ast.unparse(mark) for mark in node.decorator_list):
                found.add(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def test_every_long_test_was_run_and_passed() -> None:
    record = json.loads((ROOT / "results" / "long-tests.json").read_bytes())
    ran = {name.partition("[")[0] for name in record["tests"]}
    assert ran == long_tests(), "make test-long, then commit results/long-tests.json"
    assert {outcome for outcome, _ in record["tests"].values()} == {"passed"} and is_clean(record["commit"])


def test_tests_that_belong_together_stay_in_one_process(request: pytest.FixtureRequest) -> None:
    """pytest 9.2 ignores how pytest-xdist 3.8 names the groups: the lines of the README ran in two homes."""
    in_two = hasattr(request.config, "workerinput")
    assert request.node.nodeid.endswith("test_suite.py") == in_two
