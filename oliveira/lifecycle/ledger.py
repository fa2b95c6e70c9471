"""The ledger: the one durable store of stages, runs, artifacts, aliases, decisions, wishes and keys.

SQLite through apsw in WAL mode with `synchronous=FULL`: what a method returned survives `kill -9` and power loss. The
SQLite that Python links has the WAL-reset race before 3.51.3 (sqlite.org/changes), so an old library is refused.

Processes meet only here: the front writes a wish, the loop acts on it and writes what happened.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from oliveira.errors import CorruptError, DiskError, OliveiraError, UserError
from oliveira.files import explain_disk, make_folder
from oliveira.lifecycle.rows import ArtifactRow, Decision, Key, StageRow, Wish
from oliveira.lifecycle.schema import SCHEMA_VERSION, TABLES

__all__ = ["ArtifactRow", "Decision", "Key", "Ledger", "StageRow", "Wish"]

LIFE = "stages"  # setting: name → key of each stage of the life in force
FIRST_SAFE_SQLITE = (3, 51, 3)
_PATIENCE = 30  # seconds a writer waits for another


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What SQLite reports about the disk, as a sentence."""
    try:
        yield
    except apsw.FullError as error:
        raise DiskError(
            f"no space left for {path}. Free some space and start again: what was acknowledged is kept."
        ) from error
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.IOError) as error:
        raise DiskError(
            f"cannot write to {path}: {error}. Mend the disk, or choose a folder you may write to with --home."
        ) from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise CorruptError(
            f"{path} is damaged ({error}). Restore a backup of it, or start with another --home."
        ) from error
    except apsw.BusyError as error:
        raise DiskError(
            f"another process has kept {path} locked for {_PATIENCE} s. "
            "Stop it (`oliveira status` names it) and try again."
        ) from error


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


class Ledger:
    """One connection, safe to share between threads. Every process opens its own.

    `home` is the folder of the ledger; artifact paths are stored relative to it, so that a home can be moved.
    """

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
        if version < FIRST_SAFE_SQLITE:
            raise UserError(
                f"SQLite {apsw.sqlite_lib_version()} can lose committed pages in WAL mode. Install apsw >= 3.53."
            )
        self.home = home
        self.clock = clock
        self._lock = threading.RLock()
        self.path = home / "ledger.sqlite"
        with explain_disk(home):
            make_folder(home)
        with _explained(self.path):
            self._connection = apsw.Connection(str(self.path))
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        self._connection.set_busy_timeout(int(_PATIENCE * 1000))
        # One by one: of several statements in one `execute`, those after the first that gives a row do not run.
        for name, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            self._connection.pragma(name, value)
            if self._connection.pragma(name) != value:
                raise DiskError(f"{self.path} refuses {name} = {value}. Put --home on a local disk.")
        self._connection.pragma("journal_size_limit", 64 << 20)
        with self._transaction():
            found = self._connection.pragma("user_version")
            if found == 0:
                self._connection.execute(TABLES)
                self._connection.pragma("user_version", SCHEMA_VERSION)
            elif found != SCHEMA_VERSION:
                raise UserError(
                    f"{self.path} has schema {found}, this program knows {SCHEMA_VERSION}. "
                    "Use the version of Oliveira that wrote it, or another --home."
                )

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock, _explained(self.path):
            return list(self._connection.execute(sql, values))

    def version(self) -> int:
        """Changes whenever another process has committed."""
        with self._lock, _explained(self.path):
            return int(self._connection.pragma("data_version"))

    def check(self) -> bool:
        """Whether every page of the file is what SQLite wrote."""
        try:
            return self._rows("PRAGMA quick_check")[0][0] == "ok"
        except CorruptError:
            return False

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
        with self._transaction():
            row = self.stage(key)
            if row is not None and row.state == "done":
                raise OliveiraError(f"stage {name} ({key[:12]}) is done already")
            self._connection.execute(
                "INSERT INTO stage (key, name, state, config, inputs, owner, started) VALUES (?,?,'running',?,?,?,?) "
                "ON CONFLICT (key) DO UPDATE SET "
                "state = 'running', owner = excluded.owner, started = excluded.started, "
                "finished = NULL, seconds = NULL, message = NULL, attempts = attempts + 1",
                (key, name, _dump(config), _dump(inputs), owner, self.clock()),
            )

    def finish_stage(self, key: str, digest: str, outputs: dict[str, Any], seconds: float) -> None:
        with self._transaction():
            self._connection.execute(
                "UPDATE stage SET state = 'done', digest = ?, outputs = ?, finished = ?, seconds = ?, message = NULL "
                "WHERE key = ? AND state = 'running'",
                (digest, _dump(outputs), self.clock(), seconds, key),
            )
            if self._connection.changes() != 1:
                raise OliveiraError(f"stage {key[:12]} is not running")

    def fail_stage(self, key: str, message: str) -> None:
        with self._transaction():
            self._connection.execute(
                "UPDATE stage SET state = 'failed', message = ?, finished = ? WHERE key = ? AND state = 'running'",
                (message, self.clock(), key),
            )

    def forget_stage(self, key: str) -> None:
        """Its output is gone or damaged: it will be run again."""
        with self._transaction():
            self._connection.execute("DELETE FROM stage WHERE key = ?", (key,))

    # Runs and artifacts -------------------------------------------------------------------------------------------

    def begin_run(self, run: str, kind: str, config: dict[str, Any], folder: str, stage_key: str | None = None) -> None:
        with self._transaction():
            self._connection.execute(
                "INSERT INTO run (id, stage_key, kind, config, folder, state, started) VALUES (?,?,?,?,?,'running',?) "
                "ON CONFLICT (id) DO UPDATE SET state = 'running'",
                (run, stage_key, kind, _dump(config), folder, self.clock()),
            )

    def finish_run(self, run: str, state: str, metrics: dict[str, Any]) -> None:
        with self._transaction():
            self._connection.execute(
                "UPDATE run SET state = ?, metrics = ?, finished = ? WHERE id = ?",
                (state, _dump(metrics), self.clock(), run),
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
        with self._transaction():
            self._connection.execute(
                "INSERT INTO artifact VALUES (?,?,?,?,?,?) ON CONFLICT (digest) DO UPDATE SET path = excluded.path",
                (
                    digest,
                    kind,
                    path.relative_to(self.home).as_posix(),
                    _dump(lineage),
                    _dump(metrics),
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
            (self.clock(), kind, verdict, digest, previous, actor, _dump(numbers)),
        )
        return self._connection.last_insert_rowid()

    def set_challenger(self, digest: str | None) -> None:
        with self._transaction():
            self._require(digest)
            self._point("challenger", digest)

    def _require(self, digest: str | None) -> None:
        if digest is not None and self.artifact(digest) is None:
            raise UserError(f"artifact {digest[:12]} is not in the ledger. `oliveira history` lists those that are.")

    def decide(self, kind: str, verdict: str, *, digest: str | None, actor: str, numbers: dict[str, Any]) -> int:
        """Records a decision that moves no alias (a rejection, a failed swap)."""
        with self._transaction():
            return self._decide(kind, verdict, digest, self.alias("champion"), actor, numbers)

    def promote(self, digest: str, *, actor: str, numbers: dict[str, Any], kind: str = "promote") -> int:
        """champion := digest, previous := old champion, challenger cleared if it is this one; one transaction."""
        with self._transaction():
            self._require(digest)
            old = self.alias("champion")
            if old is not None and old != digest:
                self._point("previous", old)
            self._point("champion", digest)
            if self.alias("challenger") == digest:
                self._point("challenger", None)
            return self._decide(kind, "promoted", digest, old, actor, numbers)

    def rollback(self, *, actor: str, reason: str) -> str:
        """champion ↔ previous in one transaction. Returns the digest that is champion again."""
        with self._transaction():
            previous, old = self.alias("previous"), self.alias("champion")
            if previous is None:
                raise UserError("there is no previous model to roll back to. `oliveira history` shows what was served.")
            self._point("champion", previous)
            self._point("previous", old)
            self._decide("rollback", "rolled back", previous, old, actor, {"reason": reason})
            return previous

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

    # Wishes -------------------------------------------------------------------------------------------------------

    def wish(self, kind: str, args: dict[str, Any], actor: str) -> int:
        with self._transaction():
            self._connection.execute(
                "INSERT INTO wish (time, kind, args, actor, state) VALUES (?,?,?,?,'pending')",
                (self.clock(), kind, _dump(args), actor),
            )
            return self._connection.last_insert_rowid()

    def pending_wishes(self, *kinds: str) -> list[Wish]:
        marks = ",".join("?" * len(kinds))
        where = f"AND kind IN ({marks})" if kinds else ""
        rows = self._rows(
            f"SELECT id, time, kind, args, actor, state, result FROM wish WHERE state = 'pending' {where} ORDER BY id",
            *kinds,
        )
        return [self._to_wish(row) for row in rows]

    def get_wish(self, number: int) -> Wish | None:
        rows = self._rows("SELECT id, time, kind, args, actor, state, result FROM wish WHERE id = ?", number)
        return self._to_wish(rows[0]) if rows else None

    def finish_wish(self, number: int, state: str, result: dict[str, Any]) -> None:
        with self._transaction():
            self._connection.execute(
                "UPDATE wish SET state = ?, result = ? WHERE id = ?", (state, _dump(result), number)
            )
            if self._connection.changes() != 1:
                raise OliveiraError(f"wish {number} is not in the ledger")

    @staticmethod
    def _to_wish(row: tuple[Any, ...]) -> Wish:
        return Wish(row[0], row[1], row[2], json.loads(row[3]), row[4], row[5], json.loads(row[6]) if row[6] else None)

    # Keys ---------------------------------------------------------------------------------------------------------

    def add_key(self, name: str, scopes: tuple[str, ...]) -> str:
        """Returns the secret, which is stored only as a salted hash and shown once. Scopes: `use`, `admin`."""
        number, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_bytes(16)
        with self._transaction():
            self._connection.execute(
                "INSERT INTO api_key VALUES (?,?,?,?,?,?,NULL)",
                (number, name, " ".join(scopes), salt, _hash(salt, secret), self.clock()),
            )
        return f"sk-oli-{number}-{secret}"

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
        with self._transaction():
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
        rows = [(name, _dump(dict(labels)), float(value)) for (name, labels), value in values.items()]
        with self._transaction():
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
        with self._transaction():
            self._connection.execute(
                "INSERT INTO event (time, kind, data) VALUES (?,?,?)", (self.clock(), kind, _dump(data))
            )
            return self._connection.last_insert_rowid()

    def events(self, after: int = 0, limit: int = 200) -> list[dict[str, Any]]:
        rows = self._rows("SELECT id, time, kind, data FROM event WHERE id > ? ORDER BY id LIMIT ?", after, limit)
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
        with self._transaction():
            self._connection.execute(
                "INSERT INTO setting VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, _dump(value)),
            )


def _hash(salt: bytes, secret: str) -> bytes:
    # The secret is 32 random bytes, so one fast salted hash is enough; scrypt is for what people choose.
    return hashlib.sha256(salt + secret.encode()).digest()
