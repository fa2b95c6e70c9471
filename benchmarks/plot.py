"""A picture of each table in results/bench-*.json that has goals: how many times faster, and where the goal stands.

python -m benchmarks.plot
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parents[1] / "results"
ROW, HEAD = 0.24, 1.2  # inches


def draw(table: Path) -> Path | None:
    """results/bench-NAME.png; None if the table has no goals."""
    found = json.loads(table.read_bytes())
    goals, ratios = found.get("goals"), found.get("ratios", {})
    if not goals:
        return None
    rows = list(ratios)[::-1]
    figure, axes = plt.subplots(figsize=(10, HEAD + ROW * len(rows)), layout="constrained")
    reached = [ratios[row] >= goals[row] for row in rows]
    axes.barh(
        range(len(rows)), [ratios[row] for row in rows], color=["#2f6f8f" if met else "#c0603f" for met in reached]
    )
    axes.scatter(
        [goals[row] for row in rows], range(len(rows)), marker="|", s=140, color="black", zorder=3, label="goal"
    )
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel(
        f"peer / ours, above 1 = ours is better (log). {found.get('device') or found.get('machine', '')}", fontsize=8
    )
    axes.set_title(found["command"], fontsize=8)
    axes.margins(y=0.01)
    axes.legend(fontsize=7)
    path = table.with_suffix(".png")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def main() -> None:
    for table in sorted(RESULTS.glob("bench-*.json")):
        if (path := draw(table)) is not None:
            print(path.relative_to(RESULTS.parent))


if __name__ == "__main__":
    main()
