"""docs/benchmarks.md: what results/bench-*.json say, as one page for people.

    python -m benchmarks.page

A file needs "command" and either "ratios" (row → peer over ours) or "rows" of figures; all else may be missing.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks beside peers

Written by `python -m benchmarks.page` from `results/bench-*.json`; do not edit. `make bench` measures everything anew
and ends with this page.

**How to read it.** A row is the same work done by us and by a peer, in one run on one machine, with the same threads,
shapes and weights (where weights are rounded, each rounds them in its own way). After a warm-up the two take turns
(A B A B), so that a machine that drifts does not choose the winner. *ours* and *peer* are medians; *ratio* is the
median of the rounds' peer / ours, with the smallest and the largest in brackets: **above 1 = ours is better**, which is
faster, or smaller where the row is about bytes or loss. Those are measured once and have no brackets. *goal* is the
ratio that we want; a row below it is **missed**. A row without a goal says whether the median is faster or slower;
where the brackets hold 1, some rounds went the other way. The table of the streams compares with limits, not with a
peer. Tables come from different runs: compare within one only."""


@dataclass(frozen=True)
class Row:
    name: str
    ratio: float
    goal: float | None
    figures: dict[str, Any]  # as the benchmark wrote them; may be empty

    @cached_property
    def is_time(self) -> bool:
        return self.figures.get("unit", "s" if "low" in self.figures else "") == "s"

    @property
    def missed(self) -> bool:
        return self.goal is not None and self.ratio < self.goal

    @property
    def verdict(self) -> str:
        worse, better = ("slower", "faster") if self.is_time else ("worse", "better")
        if self.goal is None:
            return worse if self.ratio < 1 else better
        if not self.missed:
            return f"met, {worse}" if self.ratio < 1 else "met"
        return f"**missed**, {worse}" if self.ratio < 1 <= self.goal else "**missed**"

    @property
    def span(self) -> str:
        """The ratio, and the smallest and largest of the rounds."""
        low, high = self.figures.get("low"), self.figures.get("high")
        if low is None or high is None or low == high:  # measured once
            return digits(self.ratio)
        return f"{digits(self.ratio)} ({digits(low)}–{digits(high)})"

    def side(self, name: str) -> str:
        """One cell: what "ours" or "peer" took, as tokens a second where the benchmark says so."""
        if name not in self.figures:
            return "–"
        if (rate := self.figures.get("tokens_per_second" if name == "ours" else "peer_tokens_per_second")) is not None:
            return f"{number(rate)} tokens/s"
        if self.is_time:
            return duration(self.figures[name])
        return f"{number(self.figures[name])} {self.figures.get('unit', '')}".strip()

    def cells(self) -> list[str]:
        against = self.figures.get("against") or self.figures.get("reference")
        peer = self.side("peer") + (f" ({against})" if against else "")
        goal = "–" if self.goal is None else f"{self.goal:g}"
        return [self.name, self.side("ours"), peer, self.span, goal, self.verdict]


@dataclass(frozen=True)
class Table:
    name: str  # NAME of results/bench-NAME.json
    found: dict[str, Any]

    @cached_property
    def rows(self) -> list[Row]:
        goals, figures = self.found.get("goals", {}), self.found.get("rows", {})
        rows = []
        for name, ratio in self.found.get("ratios", {}).items():
            own = figures.get(name)
            rows.append(Row(name, ratio, goals.get(name), own if isinstance(own, dict) else {}))
        return rows

    @cached_property
    def other(self) -> dict[str, Any]:
        """Figures that are not of a row with a ratio."""
        return {
            name: value
            for name, value in self.found.get("rows", {}).items()
            if name not in self.found.get("ratios", {})
        }

    def origin(self) -> str:
        """Command, commit, date, machine."""
        threads = self.found.get("threads")
        parts = [
            f"`{self.found['command']}`",
            f"commit {self.found['commit']}" if "commit" in self.found else "",
            self.found.get("date", ""),
            self.found.get("device") or self.found.get("machine", ""),
            f"{threads} thread{'s' * (threads > 1)}" if threads else "",
            f"torch {self.found['torch']}" if "torch" in self.found else "",
        ]
        return " · ".join(filter(None, parts))

    def section(self, results: Path) -> str:
        parts = [f"## {self.name}", title(self.found["command"]), self.origin()]
        if (results / f"bench-{self.name}.png").exists():
            parts.append(f"![{self.name}](../results/bench-{self.name}.png)")
        if self.rows:
            parts.append(
                markdown(["row", "ours", "peer", "ratio", "goal", "result"], [row.cells() for row in self.rows])
            )
        if self.other and all(isinstance(value, dict) for value in self.other.values()):
            heads = list(dict.fromkeys(key for value in self.other.values() for key in value))
            cells = [[name, *(text(value.get(head, "–")) for head in heads)] for name, value in self.other.items()]
            parts.append(markdown(["row", *heads], cells))
        else:
            parts.append(bullets(self.other))
        parts.append(bullets(self.found.get("facts") or {}))
        return "\n\n".join(filter(None, parts))


def title(command: str) -> str:
    """The first paragraph of the docstring of the module that a command runs."""
    words = command.split()
    module = next((word for word in words if word.startswith("benchmarks.")), "")
    path = ROOT / (module.replace(".", "/") + ".py")
    if not module or not path.exists():
        return ""
    return (
        (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")[0].replace("\n", " ")
    )


def digits(value: float) -> str:
    """Three that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds * 1e6)} µs"


def number(value: float) -> str:
    if isinstance(value, float) and abs(value) < 10_000:
        return f"{value + 0.0:.4g}"  # + 0.0: no minus zero
    return f"{value:,.0f}"


def text(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return number(value)
        case list():
            return " · ".join(map(text, value)) or "none"
        case dict():
            return ", ".join(f"{name} {text(one)}" for name, one in value.items())
    return str(value)


def bullets(facts: dict[str, Any]) -> str:
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict) and len(value) > 3:
            lines += [f"- {name}:", *(f"  - {key}: {text(one)}" for key, one in value.items())]
        else:
            lines.append(f"- {name}: {text(value)}")
    return "\n".join(lines)


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def summary(tables: list[Table]) -> str:
    """How many rows of each table are met, missed or without a goal; and which are missed or slower."""
    cells, missed, slower = [], [], []
    for table in tables:
        link = f"[{table.name}](#{table.name})"
        free = [row for row in table.rows if row.goal is None]
        lost = [row for row in table.rows if row.missed]
        behind = [row for row in free if row.ratio < 1]
        met = len(table.rows) - len(free) - len(lost)
        cells.append([link, *map(str, (len(table.rows), met, len(lost), len(free), len(behind)))])
        missed += listed(link, [f"{row.name}: {row.span}, goal {row.goal:g}" for row in lost])
        slower += listed(link, [f"{row.name}: {row.span}" for row in behind])
    totals = [sum(int(line[column]) for line in cells) for column in range(1, 6)]
    heads = ["table", "rows", "met", "missed", "without a goal", "of these slower or worse"]
    parts = [markdown(heads, [*cells, ["all", *map(str, totals)]])]
    parts += ["**Missed**\n\n" + "\n".join(missed)] if missed else []
    parts += ["**Slower or worse than the peer, without a goal**\n\n" + "\n".join(slower)] if slower else []
    return "\n\n".join(parts)


def listed(head: str, lines: list[str]) -> list[str]:
    return [f"- {head}", *(f"  - {line}" for line in lines)] if lines else []


def render(results: Path = RESULTS) -> str:
    """The whole page."""
    files = sorted(results.glob("bench-*.json"))
    tables = [Table(path.stem.removeprefix("bench-"), json.loads(path.read_bytes())) for path in files]
    return (
        "\n\n".join(
            [HEAD, summary([table for table in tables if table.rows]), *(table.section(results) for table in tables)]
        )
        + "\n"
    )


def main() -> None:
    PAGE.write_text(render(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
