"""Wishes in the ledger: what a person or an alert asks for, and what came of it.

    waits → done | failed           acted upon in one transaction with its effect: it happened and is told, or neither
    waits → runs → done | failed    a retraining, which takes minutes
    waits, runs → failed            withdrawn by who asked: it will never be acted upon

In the table `waits` and `runs` are both `pending`; who acts on one says so in its result.
"""

from __future__ import annotations

import json
from typing import Any

from oliveira.errors import OliveiraError
from oliveira.ledger.rows import Wish
from oliveira.ledger.store import Store, dump

_COLUMNS = "id, time, kind, args, actor, state, result"


class Wishes(Store):
    def wish(self, kind: str, args: dict[str, Any], actor: str) -> int:
        with self.transaction():
            self._connection.execute(
                "INSERT INTO wish (time, kind, args, actor, state) VALUES (?,?,?,?,'pending')",
                (self.clock(), kind, dump(args), actor),
            )
            return self._connection.last_insert_rowid()

    def pending_wishes(self, *kinds: str) -> list[Wish]:
        """Those that wait or run, in the order they were made."""
        marks = ",".join("?" * len(kinds))
        where = f"AND kind IN ({marks})" if kinds else ""
        rows = self._rows(f"SELECT {_COLUMNS} FROM wish WHERE state = 'pending' {where} ORDER BY id", *kinds)
        return [self._to_wish(row) for row in rows]

    def get_wish(self, number: int) -> Wish | None:
        rows = self._rows(f"SELECT {_COLUMNS} FROM wish WHERE id = ?", number)
        return self._to_wish(rows[0]) if rows else None

    def is_pending(self, number: int) -> bool:
        """Ask inside the transaction that acts on it: a wish that was withdrawn is not acted upon."""
        return self._pending(number) is not None

    def begin_wish(self, number: int, note: dict[str, Any]) -> bool:
        """Says that it runs. False if it was withdrawn before."""
        return self._change(number, "pending", note)

    def finish_wish(self, number: int, state: str, result: dict[str, Any]) -> bool:
        """Says what came of it: `done` or `failed`. False if it was withdrawn before."""
        return self._change(number, state, result)

    def withdraw_wish(self, number: int, reason: str) -> Wish:
        """It will not be acted upon. Returns it: `done` if it was done before it could be withdrawn."""
        self._change(number, "failed", {"error": reason, "withdrawn": True})
        wish = self.get_wish(number)
        assert wish is not None
        return wish

    def _change(self, number: int, state: str, result: dict[str, Any]) -> bool:
        with self.transaction():
            if self._pending(number) is None:
                return False
            self._connection.execute(
                "UPDATE wish SET state = ?, result = ? WHERE id = ?", (state, dump(result), number)
            )
            return True

    def _pending(self, number: int) -> Wish | None:
        wish = self.get_wish(number)
        if wish is None:
            raise OliveiraError(f"wish {number} is not in the ledger")
        return wish if wish.state == "pending" else None

    @staticmethod
    def _to_wish(row: tuple[Any, ...]) -> Wish:
        return Wish(row[0], row[1], row[2], json.loads(row[3]), row[4], row[5], json.loads(row[6]) if row[6] else None)
