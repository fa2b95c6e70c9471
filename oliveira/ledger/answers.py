"""Answers of a task's model in the ledger, and the truth of those of which somebody told it.

Never more than KEPT of them, nor more than so many megabytes: the oldest go first, told or not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

from oliveira.ledger.rows import AnswerRow
from oliveira.ledger.store import Store, dump

KEPT = 20_000
_WEIGHED = 64  # every so many answers the bytes are counted
_COLUMNS = "number, id, time, digest, request, answer, observed, truth, error, told, key"


class Answers(Store):
    def add_answer(
        self,
        number: str,
        *,
        time: float,
        digest: str,
        request: dict[str, Any],
        answer: dict[str, Any],
        observed: dict[str, float],
        key: str = "",
        megabytes: int = 64,
    ) -> None:
        """Keeps an answer under the id `number`; the oldest go where there are more than KEPT, or than `megabytes`."""
        values = (number, time, digest, dump(request), dump(answer), dump(observed), key)
        with self.transaction():
            self._connection.execute(
                "INSERT INTO answer (id, time, digest, request, answer, observed, key) VALUES (?,?,?,?,?,?,?)", values
            )
            place = self._connection.last_insert_rowid()
            self._connection.execute("DELETE FROM answer WHERE number <= ?", (place - KEPT,))
            if place % _WEIGHED == 0:
                self._connection.execute(
                    "DELETE FROM answer WHERE number <= (SELECT max(number) FROM (SELECT number, sum("
                    "octet_length(request) + octet_length(answer) + octet_length(observed) + "
                    "coalesce(octet_length(truth), 0)) OVER (ORDER BY number DESC) AS size FROM answer) "
                    "WHERE size > ?)",
                    (megabytes << 20,),
                )

    def get_answer(self, number: str) -> AnswerRow | None:
        rows = self._rows(f"SELECT {_COLUMNS} FROM answer WHERE id = ?", number)
        return _row(rows[0]) if rows else None

    def add_truth(self, number: str, truth: Any, error: float) -> bool:
        """What was true, and how wrong the answer had been. Told again, the same changes nothing and another replaces
        it. False: there is no such answer (any more)."""
        with self.transaction():
            found = self.get_answer(number)
            if found is None:
                return False
            if found.told is None or dump(found.truth) != dump(truth) or found.error != error:
                last = self._rows("SELECT max(told) FROM answer")[0][0]
                now = self.clock() if last is None else max(self.clock(), math.nextafter(last, math.inf))
                self._connection.execute(
                    "UPDATE answer SET truth = ?, error = ?, told = ? WHERE id = ?", (dump(truth), error, now, number)
                )
            return True

    def answers(self, after: int = 0, limit: int = 200) -> list[AnswerRow]:
        """Those with a higher `number`, in the order in which they were given."""
        return [
            _row(row)
            for row in self._rows(
                f"SELECT {_COLUMNS} FROM answer WHERE number > ? ORDER BY number LIMIT ?", after, limit
            )
        ]

    def truths(self, after_told: float = 0.0, limit: int = 200) -> list[AnswerRow]:
        """Those whose truth came later than `told`, in the order in which it came."""
        return [
            _row(row)
            for row in self._rows(
                f"SELECT {_COLUMNS} FROM answer WHERE told > ? ORDER BY told LIMIT ?", after_told, limit
            )
        ]

    def pairs(self, limit: int = 200) -> list[tuple[dict[str, Any], Any]]:
        """(request, truth) of the newest answers whose truth is known, newest first."""
        rows = self._rows(
            "SELECT request, truth FROM answer WHERE told IS NOT NULL ORDER BY number DESC LIMIT ?", limit
        )
        return [(json.loads(request), json.loads(truth)) for request, truth in rows]

    def origin_of_pairs(self, limit: int = 200) -> dict[str, Any]:
        """Whose requests `pairs` gives, and of which time, as the lineage of what learns from them tells it."""
        rows = self._rows("SELECT key, time FROM answer WHERE told IS NOT NULL ORDER BY number DESC LIMIT ?", limit)
        times = [time for _, time in rows]
        return {"keys": sorted({key for key, _ in rows}), "first": min(times), "last": max(times)} if rows else {}

    def forget_answers(self, keys: Collection[str]) -> int:
        """Deletes what these keys have asked, and their truths, so that no page of the file holds them. Returns how
        many."""
        return self._erase(f"key IN ({','.join('?' * len(keys))})", *keys)

    def expire_answers(self, before: float) -> int:
        """The same for those given before a moment."""
        return self._erase("time < ?", before)

    def _erase(self, which: str, *values: Any) -> int:
        with self.transaction():
            self._connection.execute(f"DELETE FROM answer WHERE {which}", values)
            count = self._connection.changes()
        if count:
            self._rows("PRAGMA wal_checkpoint(TRUNCATE)")  # else the log still has the old pages, for a while
        return int(count)


def _row(row: tuple[Any, ...]) -> AnswerRow:
    number, name, time, digest, *texts, truth, error, told, key = row
    request, answer, observed = map(json.loads, texts)
    truth = None if truth is None else json.loads(truth)
    return AnswerRow(number, name, time, digest, request, answer, observed, truth, error, told, key)
