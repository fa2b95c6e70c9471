"""Rows of one benchmark: printed as they come, written as results/bench-NAME.json at the end."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Pair
from oliveira.export.choice import machine
from oliveira.files import write_json_atomic
from oliveira.processors import processors
from oliveira.study.provenance import commit

RESULTS = Path(__file__).parents[1] / "results"


def origin(command: str, threads: int | None) -> dict[str, Any]:
    """Where a result comes from. `threads`: None where it is no matter of one number."""
    return {
        "command": command,
        "commit": commit(),
        "date": date.today().isoformat(),
        "machine": f"{processors()} x {machine()['cpu']}",
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def arguments(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """What every table of this kind takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=processors())
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True)
    return parser


class Table:
    def __init__(self, rounds: int, threads: int) -> None:
        self.rounds, self.threads = rounds, threads
        self.rows: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}

    def add(self, name: str, pair: Pair, against: str, goal: float, unit: str = "s", **more: Any) -> None:
        self.rows[name] = {"against": against, "goal": goal, "unit": unit, **asdict(pair), **more}
        print(
            f"{name:<44} ours {pair.ours:.3f} {unit}  {against} {pair.peer:.3f} {unit}  ratio {pair.ratio:.2f} "
            f"({pair.low:.2f}–{pair.high:.2f})  goal {goal}  {more or ''}",
            flush=True,
        )

    def fact(self, name: str, value: Any) -> None:
        self.facts[name] = value
        print(f"{name}: {value}", flush=True)

    @property
    def ratios(self) -> dict[str, float]:
        return {name: round(row["ratio"], 3) for name, row in self.rows.items()}

    def close(self, name: str, *, write: bool) -> None:
        """Writes results/bench-NAME.json and prints the ratios."""
        if write:
            found = {
                **origin(f"python -m benchmarks.{name} --rounds {self.rounds} --threads {self.threads}", self.threads),
                "rounds": self.rounds,
                "ratios": self.ratios,
                "goals": {name: row["goal"] for name, row in self.rows.items()},
                "facts": self.facts,
                "rows": self.rows,
            }
            write_json_atomic(RESULTS / f"bench-{name}.json", found)
        print(json.dumps(self.ratios))
