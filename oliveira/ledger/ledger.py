"""The ledger: the one durable store of stages, runs, artifacts, aliases, decisions, wishes and keys.

Processes meet only here: the front writes a wish, the loop acts on it and writes what happened.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
from pathlib import Path
from typing import Any

from oliveira.errors import OliveiraError, UserError
from oliveira.ledger.answers import Answers
from oliveira.ledger.rows import AnswerRow, ArtifactRow, Decision, Key, StageRow, Wish
from oliveira.ledger.store import dump
from oliveira.ledger.wishes import Wishes

__all__ = ["AnswerRow", "ArtifactRow", "Decision", "Key", "Ledger", "StageRow", "Wish"]

# Settings
LIFE = "stages"  # name → key of each stage of the life in force
PAUSED = "paused"  # whether a person wants no retraining
ADDRESS = "address"  # of the front that `oliveira up` started last
RETRAINING = "retraining"  # what the running one is at, or None
WAITS = "waits"  # name of the life of this home that learns before this one may


class Ledger(Wishes, Answers):
    """One connection, safe to share between threads. Every process opens its own.

    `home` is the folder of the ledger; artifact paths are stored relative to it, so that a home can be moved.
    """

    # Stages -------------------------------------------------------------------------------------------------------

    _STAGE = "key, name, state, config, inputs, digest, outputs, message, owner, started, finished, seconds, attempts"

    def stage(self, key: str) -> StageRow | None:
        rows = self._rows(f"SELECT {self._STAGE} FROM stage WHERE key = ?", key)
        return self._to_stage(rows[0]) if rows else None

    def stages(self) -> list[StageRow]:
        """Oldest first."""
        return [self._to_stage(row) for row in self._rows(f"SELECT {self._STAGE} FROM stage ORDER BY started, rowid")]

    def life(self) -> list[StageRow]:
        """Stages of the life in force, by name; before there is one, all of them."""
        keys = self.setting(LIFE)
        if keys is None:
            return self.stages()
        return [row for key in keys.values() if (row := self.stage(key)) is not None]

    @staticmethod
    def _to_stage(row: tuple[Any, ...]) -> StageRow:
        values = list(row)
        values[3], values[4] = json.loads(row[3]), json.loads(row[4])
        values[6] = json.loads(row[6]) if row[6] else {}
        return StageRow(*values)

    def begin_stage(self, key: str, name: str, config: dict[str, Any], inputs: dict[str, str], owner: str) -> None:
        """Marks a stage running. The caller holds the lock of the home, so a running row is a dead process's."""
        with self.transaction():
            row = self.stage(key)
            if row is not None and row.state == "done":
                raise OliveiraError(f"stage {name} ({key[:12]}) is done already")
            self._connection.execute(
                "INSERT INTO stage (key, name, state, config, inputs, owner, started) VALUES (?,?,'running',?,?,?,?) "
                "ON CONFLICT (key) DO UPDATE SET "
                "state = 'running', owner = excluded.owner, started = excluded.started, "
                "finished = NULL, seconds = NULL, message = NULL, attempts = attempts + 1",
                (key, name, dump(config), dump(inputs), owner, self.clock()),
            )

    def finish_stage(self, key: str, digest: str, outputs: dict[str, Any], seconds: float) -> None:
        with self.transaction():
            self._connection.execute(
                "UPDATE stage SET state = 'done', digest = ?, outputs = ?, finished = ?, seconds = ?, message = NULL "
                "WHERE key = ? AND state = 'running'",
                (digest, dump(outputs), self.clock(), seconds, key),
            )
            if self._connection.changes() != 1:
                raise OliveiraError(f"stage {key[:12]} is not running")

    def fail_stage(self, key: str, message: str) -> None:
        with self.transaction():
            self._connection.execute(
                "UPDATE stage SET state = 'failed', message = ?, finished = ? WHERE key = ? AND state = 'running'",
                (message, self.clock(), key),
            )

    def forget_stage(self, key: str) -> None:
        """Its output is gone or damaged: it will be run again."""
        with self.transaction():
            self._connection.execute("DELETE FROM stage WHERE key = ?", (key,))

    # Runs and artifacts -------------------------------------------------------------------------------------------

    def begin_run(self, run: str, kind: str, config: dict[str, Any], folder: str, stage_key: str | None = None) -> None:
        with self.transaction():
            self._connection.execute(
                "INSERT INTO run (id, stage_key, kind, config, folder, state, started) VALUES (?,?,?,?,?,'running',?) "
                "ON CONFLICT (id) DO UPDATE SET state = 'running'",
                (run, stage_key, kind, dump(config), folder, self.clock()),
            )

    def finish_run(self, run: str, state: str, metrics: dict[str, Any]) -> None:
        with self.transaction():
            self._connection.execute(
                "UPDATE run SET state = ?, metrics = ?, finished = ? WHERE id = ?",
                (state, dump(metrics), self.clock(), run),
            )
            if self._connection.changes() != 1:
                raise OliveiraError(f"run {run} is not in the ledger")

    def runs(self) -> list[dict[str, Any]]:
        names = ("id", "stage_key", "kind", "config", "folder", "state", "started", "finished", "metrics")
        found = [
            dict(zip(names, row, strict=True))
            for row in self._rows(f"SELECT {', '.join(names)} FROM run ORDER BY started")
        ]
        for row in found:
            row["config"] = json.loads(row["config"])
            row["metrics"] = json.loads(row["metrics"]) if row["metrics"] else {}
        return found

    def add_artifact(
        self, digest: str, kind: str, path: Path, lineage: dict[str, Any], metrics: dict[str, Any]
    ) -> None:
        """Idempotent: the digest names the content. `path` lies below the home and is complete on disk."""
        with self.transaction():
            self._connection.execute(
                "INSERT INTO artifact VALUES (?,?,?,?,?,?) ON CONFLICT (digest) DO UPDATE SET path = excluded.path",
                (
                    digest,
                    kind,
                    path.relative_to(self.home).as_posix(),
                    dump(lineage),
                    dump(metrics),
                    self.clock(),
                ),
            )

    def artifact(self, digest: str) -> ArtifactRow | None:
        rows = self._rows("SELECT digest, kind, path, lineage, metrics, created FROM artifact WHERE digest = ?", digest)
        return self._to_artifact(rows[0]) if rows else None

    def artifacts(self) -> list[ArtifactRow]:
        rows = self._rows("SELECT digest, kind, path, lineage, metrics, created FROM artifact ORDER BY created, rowid")
        return [self._to_artifact(row) for row in rows]

    def _to_artifact(self, row: tuple[Any, ...]) -> ArtifactRow:
        return ArtifactRow(row[0], row[1], self.home / row[2], json.loads(row[3]), json.loads(row[4]), row[5])

    # Aliases and decisions ----------------------------------------------------------------------------------------

    def alias(self, name: str) -> str | None:
        rows = self._rows("SELECT digest FROM alias WHERE name = ?", name)
        return rows[0][0] if rows else None

    def aliases(self) -> dict[str, str]:
        return dict(self._rows("SELECT name, digest FROM alias"))

    def _point(self, name: str, digest: str | None) -> None:
        if digest is None:
            self._connection.execute("DELETE FROM alias WHERE name = ?", (name,))
        else:
            self._connection.execute(
                "INSERT INTO alias VALUES (?,?) ON CONFLICT (name) DO UPDATE SET digest = excluded.digest",
                (name, digest),
            )

    def _decide(
        self,
        kind: str,
        verdict: str,
        digest: str | None,
        previous: str | None,
        actor: str,
        numbers: dict[str, Any],
    ) -> int:
        self._connection.execute(
            "INSERT INTO decision (time, kind, verdict, digest, previous, actor, numbers) VALUES (?,?,?,?,?,?,?)",
            (self.clock(), kind, verdict, digest, previous, actor, dump(numbers)),
        )
        return self._connection.last_insert_rowid()

    def set_challenger(self, digest: str | None) -> None:
        with self.transaction():
            self._require(digest)
            self._point("challenger", digest)

    def _require(self, digest: str | None) -> None:
        if digest is not None and self.artifact(digest) is None:
            raise UserError(f"artifact {digest[:12]} is not in the ledger. `oliveira history` lists those that are.")

    def decide(self, kind: str, verdict: str, *, digest: str | None, actor: str, numbers: dict[str, Any]) -> int:
        """Records a decision that moves no alias (a rejection, a failed swap)."""
        with self.transaction():
            return self._decide(kind, verdict, digest, self.alias("champion"), actor, numbers)

    def promote(self, digest: str, *, actor: str, numbers: dict[str, Any], kind: str = "promote") -> int:
        """champion := digest, previous := old champion, challenger cleared if it is this one; one transaction."""
        with self.transaction():
            self._require(digest)
            old = self.alias("champion")
            self._crown(digest)
            number = self._decide(kind, "promoted", digest, old, actor, numbers)
            self._point("previous", self._below_top())
            return number

    def rollback(self, *, actor: str, reason: str) -> str:
        """champion := previous, previous := the one before that. Returns the digest that is champion again.

        What was rolled back is not `previous`: a second rollback goes one further back, or says that nothing is older.
        """
        with self.transaction():
            previous, old = self._below_top(), self.alias("champion")
            if previous is None:
                raise UserError(
                    "there is no previous model to roll back to: nothing older was served, or it was rolled back. "
                    "`oliveira history` shows what was, `oliveira swap` serves any of it."
                )
            self._crown(previous)
            self._decide("rollback", "rolled back", previous, old, actor, {"reason": reason})
            self._point("previous", self._below_top())
            return previous

    def _crown(self, digest: str) -> None:
        """Who serves is nobody's challenger."""
        self._point("champion", digest)
        if self.alias("challenger") == digest:
            self._point("challenger", None)

    def _below_top(self) -> str | None:
        """What was served before the champion and never rolled back since, by the decisions."""
        served: list[str] = []
        moves = self._rows(
            "SELECT digest, previous, verdict FROM decision WHERE verdict IN ('promoted', 'rolled back') ORDER BY id"
        )
        for digest, previous, verdict in moves:
            gone = {digest, previous} if verdict == "rolled back" else {digest}
            served = [*(other for other in served if other not in gone), digest]
        return served[-2] if len(served) > 1 else None

    def gate_verdict(self, digest: str) -> Decision | None:
        """What the gate last said of an artifact."""
        rows = self._rows(
            "SELECT id, time, kind, verdict, digest, previous, actor, numbers FROM decision "
            "WHERE digest = ? AND actor = 'gate' ORDER BY id DESC LIMIT 1",
            digest,
        )
        return self._to_decision(rows[0]) if rows else None

    def decisions(self, limit: int = 100) -> list[Decision]:
        """Newest first."""
        rows = self._rows(
            "SELECT id, time, kind, verdict, digest, previous, actor, numbers FROM decision ORDER BY id DESC LIMIT ?",
            limit,
        )
        return [self._to_decision(row) for row in rows]

    @staticmethod
    def _to_decision(row: tuple[Any, ...]) -> Decision:
        return Decision(row[0], row[1], row[2], row[3], row[4], row[5], row[6], json.loads(row[7]))

    # Keys ---------------------------------------------------------------------------------------------------------

    def add_key(self, name: str, scopes: tuple[str, ...]) -> str:
        """Returns the secret, which is stored only as a salted hash and shown once. Scopes: `use`, `admin`."""
        number, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_bytes(16)
        with self.transaction():
            self._connection.execute(
                "INSERT INTO api_key VALUES (?,?,?,?,?,?,NULL)",
                (number, name, " ".join(scopes), salt, _hash(salt, secret), self.clock()),
            )
        return f"sk-oli-{number}-{secret}"

    def fresh_key(self, name: str, scopes: tuple[str, ...], most: int) -> str:
        """A new key of this name, as only hashes are kept; earlier ones stay good, the oldest go beyond `most`."""
        with self.transaction():
            alive = [key for key in self.keys() if key.name == name and key.revoked is None]
            for key in alive[: max(0, len(alive) + 1 - most)]:
                self.revoke_key(key.id)
            return self.add_key(name, scopes)

    def verify_key(self, presented: str) -> Key | None:
        """The key that `presented` is, or None. Same work for a wrong secret as for a right one."""
        parts = presented.split("-", 3) if presented.isascii() else []
        number, secret = (parts[2], parts[3]) if len(parts) == 4 and parts[:2] == ["sk", "oli"] else ("", "")
        rows = self._rows("SELECT id, name, scopes, created, revoked, salt, hash FROM api_key WHERE id = ?", number)
        salt, expected = (rows[0][5], rows[0][6]) if rows else (b"\0" * 16, b"\0" * 32)
        same = hmac.compare_digest(_hash(salt, secret), expected)
        if not (same and rows and rows[0][4] is None):
            return None
        row = rows[0]
        return Key(row[0], row[1], tuple(row[2].split()), row[3], row[4])

    def keys(self) -> list[Key]:
        rows = self._rows("SELECT id, name, scopes, created, revoked FROM api_key ORDER BY created, rowid")
        return [Key(row[0], row[1], tuple(row[2].split()), row[3], row[4]) for row in rows]

    def revoke_key(self, number: str) -> None:
        with self.transaction():
            self._connection.execute(
                "UPDATE api_key SET revoked = ? WHERE id = ? AND revoked IS NULL", (self.clock(), number)
            )
            if self._connection.changes() != 1:
                raise UserError(f"key {number!r} is unknown or revoked already. `oliveira keys list` shows the keys.")

    # Gauges, events, settings -------------------------------------------------------------------------------------

    def set_gauges(self, values: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> None:
        """(name, ((label, value), …)) → number; the front exposes them under `oliveira:name`.

        NaN takes the gauge away: SQLite cannot hold it, and an absent series is how Prometheus says "unknown".
        """
        now = self.clock()
        rows = [(name, dump(dict(labels)), float(value)) for (name, labels), value in values.items()]
        with self.transaction():
            self._connection.executemany(
                "INSERT INTO gauge VALUES (?,?,?,?) "
                "ON CONFLICT (name, labels) DO UPDATE SET value = excluded.value, time = excluded.time",
                [(*row, now) for row in rows if not math.isnan(row[2])],
            )
            self._connection.executemany(
                "DELETE FROM gauge WHERE name = ? AND labels = ?",
                [row[:2] for row in rows if math.isnan(row[2])],
            )

    def gauges(self) -> list[tuple[str, dict[str, str], float, float]]:
        rows = self._rows("SELECT name, labels, value, time FROM gauge ORDER BY name, labels")
        return [(name, json.loads(labels), value, when) for name, labels, value, when in rows]

    def event(self, kind: str, data: dict[str, Any]) -> int:
        with self.transaction():
            self._connection.execute(
                "INSERT INTO event (time, kind, data) VALUES (?,?,?)", (self.clock(), kind, dump(data))
            )
            return self._connection.last_insert_rowid()

    def events(self, after: int = 0, limit: int = 200) -> list[dict[str, Any]]:
        rows = self._rows("SELECT id, time, kind, data FROM event WHERE id > ? ORDER BY id LIMIT ?", after, limit)
        return [{"id": row[0], "time": row[1], "kind": row[2], "data": json.loads(row[3])} for row in rows]

    def events_since(self, when: float, *kinds: str) -> list[dict[str, Any]]:
        """Of these kinds, oldest first."""
        marks = ",".join("?" * len(kinds))
        sql = f"SELECT id, time, kind, data FROM event WHERE time >= ? AND kind IN ({marks}) ORDER BY id"
        rows = self._rows(sql, when, *kinds)
        return [{"id": row[0], "time": row[1], "kind": row[2], "data": json.loads(row[3])} for row in rows]

    def latest_events(self, limit: int = 50) -> list[dict[str, Any]]:
        """Newest first."""
        rows = self._rows("SELECT id, time, kind, data FROM event ORDER BY id DESC LIMIT ?", limit)
        return [{"id": row[0], "time": row[1], "kind": row[2], "data": json.loads(row[3])} for row in rows]

    def last_event(self, kind: str) -> dict[str, Any] | None:
        rows = self._rows("SELECT id, time, kind, data FROM event WHERE kind = ? ORDER BY id DESC LIMIT 1", kind)
        return (
            {"id": rows[0][0], "time": rows[0][1], "kind": rows[0][2], "data": json.loads(rows[0][3])} if rows else None
        )

    def setting(self, name: str, default: Any = None) -> Any:
        rows = self._rows("SELECT value FROM setting WHERE name = ?", name)
        return json.loads(rows[0][0]) if rows else default

    def set_setting(self, name: str, value: Any) -> None:
        with self.transaction():
            self._connection.execute(
                "INSERT INTO setting VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, dump(value)),
            )


def _hash(salt: bytes, secret: str) -> bytes:
    # The secret is 32 random bytes, so one fast salted hash is enough; scrypt is for what people choose.
    return hashlib.sha256(salt + secret.encode()).digest()
