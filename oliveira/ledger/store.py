"""The file under the ledger: SQLite through apsw in WAL mode with `synchronous=FULL`.

What a method returned survives `kill -9` and power loss. The SQLite that Python links has the WAL-reset race before
3.51.3 (sqlite.org/changes), so an old library is refused.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import apsw

from oliveira.errors import CorruptError, DiskError, UserError
from oliveira.files import explain_disk, make_folder
from oliveira.ledger.schema import SCHEMA_VERSION, STEPS

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
            f"{path} is damaged ({error}). Restore a backup (`oliveira restore`), or start with another --home."
        ) from error
    except apsw.BusyError as error:
        raise DiskError(
            f"another process has kept {path} locked for {_PATIENCE} s. "
            "Stop it (`oliveira status` names it) and try again."
        ) from error


def check_not_lost(home: Path) -> None:
    """Raises `CorruptError` where a life was led and its ledger is gone or empty: a new one would hide that."""
    there = [name for name in ("artifacts", "stages") if any((home / name).glob("[!.]*"))]
    there += ["folder lives"] if any(home.glob("lives/*/ledger.sqlite")) else []  # whose keys it held
    if there:
        raise CorruptError(
            f"{home / 'ledger.sqlite'} is damaged (it is empty, and a life's {' and '.join(there)} are there). "
            "Restore a backup (`oliveira restore`), or start with another --home."
        )


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


class Store:
    """One connection, safe to share between threads. Every process opens its own.

    `home` is the folder of the ledger; artifact paths are stored relative to it, so that a home can be moved.
    `reads`: nothing is written, and a ledger of an older version is read as it is.
    """

    def __init__(self, home: Path, clock: Callable[[], float] = time.time, *, reads: bool = False) -> None:
        version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
        if version < FIRST_SAFE_SQLITE:
            raise UserError(
                f"SQLite {apsw.sqlite_lib_version()} can lose committed pages in WAL mode. Install apsw >= 3.53."
            )
        self.home = home
        self.clock = clock
        self._lock = threading.RLock()
        self.path = home / "ledger.sqlite"
        self._older = False
        with explain_disk(home):
            if not reads and not home.is_dir():
                make_folder(home)
                home.chmod(0o700)  # requests, answers and prompts are private
            if not self.path.exists() or not self.path.stat().st_size:
                check_not_lost(home)  # before SQLite makes a new one of it
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if reads else apsw.SQLITE_OPEN_CREATE)  # one with a WAL is written to
        with _explained(self.path):
            self._connection = apsw.Connection(str(self.path), flags=flags)
            try:
                self._connection.set_busy_timeout(int(_PATIENCE * 1000))
                if not reads:
                    with contextlib.suppress(OSError):  # of another user, who lets us write
                        self.path.chmod(0o600)
                self._look() if reads else self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _look(self) -> None:
        self._connection.pragma("query_only", 1)
        self._older = self._schema() < SCHEMA_VERSION

    def _schema(self) -> int:
        found = int(self._connection.pragma("user_version"))
        if not 0 <= found <= SCHEMA_VERSION:
            raise UserError(
                f"{self.path} has schema {found}, this program knows {SCHEMA_VERSION}. "
                "Use the version of Oliveira that wrote it, or another --home."
            )
        if found == 0:
            check_not_lost(self.home)
        return found

    def _prepare(self) -> None:
        # One by one: of several statements in one `execute`, those after the first that gives a row do not run.
        # `secure_delete` from the first row on: one that moves to another page leaves nothing behind to be found.
        wanted = (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("secure_delete", 1))
        for name, value in wanted:
            self._connection.pragma(name, value)
            if self._connection.pragma(name) != value:
                raise DiskError(f"{self.path} refuses {name} = {value}. Put --home on a local disk.")
        self._connection.pragma("journal_size_limit", 64 << 20)
        with self.transaction():
            found = self._schema()
            for number, step in enumerate(STEPS[found:], found + 1):  # all of them or none: a kill leaves the old home
                self._connection.execute(step)
                self._connection.pragma("user_version", number)

    def is_made(self) -> bool:
        """Whether it has its tables: one that only looks may find it before `oliveira up` made them."""
        return self._schema() > 0

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and alone among the writers. Inside another one it is a part of that."""
        with self._lock, _explained(self.path):
            if self._connection.in_transaction:
                yield
                return
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
            try:
                return list(self._connection.execute(sql, values))
            except apsw.SQLError as error:
                if not self._older:
                    raise
                raise UserError(
                    f"{self.path} is of an older version, which has not what is asked for ({error}). "
                    "`oliveira up` brings it up to date."
                ) from error

    def copy_to(self, path: Path, *, without: Collection[str] = ()) -> None:
        """One consistent moment of it, while others write, with these tables empty. What was deleted is not in it."""
        with self._lock, _explained(path):
            only_reads = self._connection.pragma("query_only")
            self._connection.pragma("query_only", 0)  # SQLite would refuse to write the copy too
            try:
                self._connection.execute("VACUUM INTO ?", (str(path),))
            finally:
                self._connection.pragma("query_only", only_reads)
            with contextlib.closing(apsw.Connection(str(path))) as copy:
                there = {name for (name,) in copy.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
                for table in there.intersection(without):
                    copy.execute(f'DELETE FROM "{table}"')
                if there.intersection(without):
                    copy.execute("VACUUM")

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
