"""The curve of a run: JSON lines while it learns, a PNG for people."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from oliveira.drawing import pyplot
from oliveira.files import write_atomic


class Curve:
    """Append-only JSON lines. Lines after `resume_at` are dropped, so a resumed curve has no doubles; `drop_looks`:
    also what was measured at that step, since it is measured again.
    """

    def __init__(self, path: Path, resume_at: int = 0, *, drop_looks: bool = False) -> None:
        kept = [
            row
            for row in read_curve(path)
            if row["step"] < resume_at or (row["step"] == resume_at and ("loss" in row or not drop_looks))
        ]
        write_atomic(path, "".join(_line(row) for row in kept).encode())
        self._file = path.open("a", encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_curve(path: Path) -> list[dict[str, Any]]:
    """All complete lines; a torn last line of a killed writer is left out, and what is no row of a curve."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def draw_curve(rows: list[dict[str, Any]], png: Path, *, title: str, lines: dict[str, float] | None = None) -> None:
    """Loss (nats a token) and validation bits per byte over the steps; `lines` are named levels to compare with."""
    plt = pyplot()
    train = [(r["step"], r["loss"]) for r in rows if "loss" in r]
    validation = [(r["step"], r["validation_bits_per_byte"]) for r in rows if "validation_bits_per_byte" in r]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    left.plot(*zip(*train, strict=True), lw=0.8)
    left.set(xlabel="step", ylabel="training loss, nats a token", title=title)
    if validation:
        right.plot(*zip(*validation, strict=True), marker="o", ms=3, label="model")
    for name, level in (lines or {}).items():
        right.axhline(level, ls="--", lw=0.8, color="gray")
        right.annotate(name, (0.99, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    right.set(xlabel="step", ylabel="validation bits per byte")
    figure.savefig(png, dpi=110, format="png")
    plt.close(figure)


def draw_seeds(paths: list[Path], png: Path, *, title: str, metric: str, lines: dict[str, float] | None = None) -> None:
    """Stored curves of several seeds over each other: loss, and one metric with the levels of `lines`."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for path in paths:
        rows = read_curve(path)
        for axes, key, style in ((left, "loss", {"lw": 0.6}), (right, metric, {"marker": "o", "ms": 3, "lw": 1})):
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), **style)
    for name, level in (lines or {}).items():
        right.axhline(level, ls="--", lw=0.8, color="gray")
        right.annotate(name, (0.99, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    left.set(xlabel="step", ylabel="training loss", title=title)
    right.set(xlabel="step", ylabel=metric.replace("_", " "), title=f"{len(paths)} seeds")
    figure.savefig(png, dpi=100, format="png")
    plt.close(figure)
