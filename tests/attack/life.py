"""What is attacked: a served life, copies of it, and the questions that it must answer after every attack."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from oliveira import artifact
from oliveira.ledger import Ledger
from tests.attack.house import House, alive, wait_for

ASK = {"model": "oliveira", "prompt": "No princípio", "max_tokens": 4}
RECOVERY = 40.0  # seconds in which a house answers again after one of its processes was killed


class Life:
    """A running house; `spare`: its home as it was at rest, to be copied."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.spare = folder, folder / "spare"
        self.house = House(folder / "home")
        self._copies = 0

    def start(self) -> None:
        """Lives once, rests to be copied, and serves."""
        self.house.start().ready()
        assert self.house.stop() == 0, self.house.said()
        with Ledger(self.house.home) as ledger:
            self.use, self.other = (ledger.add_key(name, ("use",)) for name in ("use", "other"))
            self.admin, self.revoked = ledger.add_key("admin", ("admin",)), ledger.add_key("gone", ("use",))
            ledger.revoke_key(self.revoked.split("-")[2])
            self.champion = ledger.alias("champion")
            self.artifacts = {row.digest for row in ledger.artifacts()}
        shutil.copytree(self.house.home, self.spare, ignore=shutil.ignore_patterns("*.lock"))
        self.house.start().ready()
        self.pids = self.house.processes()

    def asked(self, house: House | None = None, key: str = "") -> httpx.Response:
        return (house or self.house).post("/v1/completions", key or self.use, json=ASK)

    def answers(self, house: House | None = None, seconds: float = 0.0) -> None:
        """A completion, at once or within so many seconds."""
        end, seen = time.monotonic() + seconds, ""
        while True:
            try:
                answer = self.asked(house)
                if answer.status_code == 200 and answer.json()["choices"]:
                    return
                seen = f"{answer.status_code} {answer.text[:200]}"
            except (httpx.TransportError, OSError, ValueError) as error:
                seen = repr(error)
            assert time.monotonic() < end, f"no completion: {seen}"
            time.sleep(0.2)

    def is_whole(self, *, killed: bool = False) -> None:
        """It answers, nothing acknowledged is lost, and nobody died unless that was meant."""
        self.answers(seconds=RECOVERY if killed else 0.0)
        self.keeps(self.house)
        if killed:
            wait_for(lambda: len(self.house.engines()) == 1 and alive(self.house.loop()), RECOVERY, "all processes")
            self.pids = self.house.processes()
        assert self.house.processes() == self.pids, f"{self.house.processes()} were {self.pids}"
        assert all(map(alive, self.pids.values()))

    def keeps(self, house: House) -> None:
        """Keys, aliases and artifacts are what they were; no wish waits that nobody made."""
        assert house.get("/v1/models", self.use).status_code == 200
        assert house.get("/v1/models", self.admin).status_code == 200
        assert house.get("/v1/models", self.revoked).status_code == 401
        self.kept(house.home)

    def kept(self, home: Path) -> None:
        """The same of a home at rest."""
        with Ledger(home) as ledger:
            assert ledger.check(), "the ledger is damaged"
            assert ledger.alias("champion") == self.champion, "another champion"
            assert ledger.verify_key(self.use) and not ledger.verify_key(self.revoked), (
                "the keys are not what they were"
            )
            wait_for(lambda: not ledger.pending_wishes(), 5, "an end of every wish")  # refused is refused
            rows = {row.digest: row for row in ledger.artifacts()}
        assert set(rows) >= self.artifacts, "an artifact is gone"
        for digest, row in rows.items():
            artifact.open_artifact(row.path, digest)

    @contextlib.contextmanager
    def copy(self) -> Iterator[House]:
        """A house at rest on a copy of the home, for what would take the first one down."""
        self._copies += 1
        home = self.folder / f"copy-{self._copies}"
        shutil.copytree(self.spare, home)
        with House(home) as house:
            yield house
        shutil.rmtree(home, ignore_errors=True)


def environment(**changes: str | None) -> dict[str, str]:
    """Ours, changed; None takes a variable away. The program is found as it is here."""
    root = str(Path(__file__).parents[2])
    merged = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))}
    merged |= {name: value for name, value in changes.items() if value is not None}
    return {name: value for name, value in merged.items() if name not in changes or changes[name] is not None}


def spinning() -> list[str]:
    """The command of a process that does nothing but work."""
    return [sys.executable, "-c", "while True: pass"]
