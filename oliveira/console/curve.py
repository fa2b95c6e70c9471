"""The learning curve of a run, read while another process writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oliveira.console.state import finite
from oliveira.errors import UserError
from oliveira.ledger import Ledger

MAX_ROWS = 2000


def curve_path(ledger: Ledger, home: Path, run: str) -> Path:
    """Where the curve of a run lies. `UserError` for a run that the ledger does not know or outside of `home`."""
    folder = next((row["folder"] for row in ledger.runs() if row["id"] == run), None)
    if folder is None:
        raise UserError(f"run {run!r} is not in the ledger. GET /admin/state lists the runs.")
    path = (home / folder / "curve.jsonl").resolve()
    if not path.is_relative_to(home.resolve()):
        raise UserError(f"the folder of run {run!r} lies outside of the home. Look at the ledger.")
    return path


class CurveTail:
    """Reads what was appended since the last call: whole lines only, a torn last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._inode = 0

    def read_new(self) -> tuple[bool, list[dict[str, Any]]]:
        """(begun anew?, rows). A resumed run rewrites its curve: then everything is read again."""
        try:
            with self.path.open("rb") as file:
                found = self.path.stat()
                fresh = self._offset == 0 or found.st_ino != self._inode or found.st_size < self._offset
                self._inode, self._offset = found.st_ino, 0 if fresh else self._offset
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return False, []
        self._offset += len(whole) + 1 if whole else 0
        return fresh, [row for line in whole.splitlines() if (row := _parse(line)) is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return finite(row) if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def thin(rows: list[dict[str, Any]], limit: int = MAX_ROWS) -> list[dict[str, Any]]:
    """At most `limit` training rows, evenly taken, with the last one; validation rows and samples all stay."""
    losses = [row for row in rows if "loss" in row]
    every = -(-len(losses) // limit)
    if every <= 1:
        return rows
    kept = {id(row) for row in losses[::-1][::every]}
    return [row for row in rows if "loss" not in row or id(row) in kept]
