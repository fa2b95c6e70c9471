"""The house: a front that returns keeps its port, printed keys live until they are revoked, children end in time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from oliveira.errors import CorruptError
from oliveira.ledger import Ledger
from oliveira.ledger.lives import make_place, place
from oliveira.lifecycle import once, up
from oliveira.lifecycle.overview import lives_overview
from oliveira.lifecycle.traffic_load import Answer, Load
from oliveira.lifecycle.up import Child, House
from oliveira.lifecycle.visitors import TextVisitors
from oliveira.process.stop import end
from oliveira.world import World

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def test_a_front_that_returns_keeps_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(list(command))

        def poll(self) -> int | None:
            return -9 if len(started) == 1 else None

    monkeypatch.setattr(up.subprocess, "Popen", Process)
    monkeypatch.setattr(up.time, "sleep", lambda seconds: None)
    front = Child("oliveira.serving.front", "--home", "h", "--port", "0")
    front.again_with("--port", "8421")
    front.check()
    assert started[0][started[0].index("--port") + 1] == "0"
    assert started[1][started[1].index("--port") + 1] == "8421"


VISITORS: Any = None  # nobody is asked


def house(home: Path, ledger: Ledger) -> House:
    found = House(home, World(), port=0, quiet=True)
    found.ledger = ledger
    return found


def test_printed_keys_live_until_revoked(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        other = ledger.add_key("ana", ("use",))
        printed = [ledger.fresh_key("terminal", ("use", "admin"), 3) for _ in range(3)]
        assert len(set(printed)) == 3 and all(ledger.verify_key(key) for key in printed)
        ledger.revoke_key(printed[1].split("-")[2])
        assert [ledger.verify_key(key) is not None for key in printed] == [True, False, True]
        printed += [ledger.fresh_key("terminal", ("use", "admin"), 3) for _ in range(2)]
        alive = [ledger.verify_key(key) is not None for key in printed]
        assert alive == [False, False, True, True, True], "the oldest goes when there are too many"
        assert ledger.verify_key(other), "a key that a person made is nobody else's to revoke"


def test_a_child_that_does_not_listen_is_killed_in_time() -> None:
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"deaf\n"
        begun = time.monotonic()
        end(process, 0.2)
        assert process.returncode == -9 and time.monotonic() - begun < 20


BUSY = """
from oliveira.errors import Interrupted
from oliveira.process.stop import Stop
stop = Stop(watch_parent=True, within=0.1)
print("busy", flush=True)
try:
    while True:
        pass
except Interrupted:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("how", ["SIGTERM", "the parent is gone"])
def test_who_computes_and_does_not_look_ends_all_the_same(how: str) -> None:
    """A gate that scores, a kernel that is built: SIGTERM and a parent that died end them within the second."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None and process.stdout.readline() == b"busy\n"
        if how == "SIGTERM":
            process.terminate()
        else:
            process.stdin.close()
        assert process.stdout.read() == b"interrupted\n" and process.wait(20) == 0


def test_after_a_rejection_the_witness_swaps_and_rolls_back_nothing(tmp_path: Path) -> None:
    """A swap of the champion for itself would stand in the history as a promotion."""
    with Ledger(tmp_path) as ledger:
        mine = house(tmp_path, ledger)
        witness, said = once._Witness(mine, up.Stop()), []
        decision = {"verdict": "rejected", "digest": "new", "numbers": {}}
        swap = once._swap_under_load(mine, witness, VISITORS, "old", decision, said.append)
        assert swap == {"requests": 0, "failed": 0, "reason": "nothing was promoted"}
        assert (
            once._roll_back(mine, witness, VISITORS, "old", decision, said.append)["reason"] == "nothing was promoted"
        )
        assert said == [] and ledger.pending_wishes() == []


def test_a_quantile_is_of_the_slow_side() -> None:
    load = Load("http://127.0.0.1:1", "key", lambda client, text: client.get("/"), ["text"], workers=1)
    load.answers = [Answer(200, seconds / 100, "m") for seconds in range(100)] + [Answer(503, 99.0, "")]
    assert load.quantile(0.95) == 0.95 and load.quantile(1.0) == 0.99 and load.failed == 1


@pytest.mark.parametrize(
    ("detected", "says"), [(False, "no drift was seen after 5000 requests of"), (True, "the alarm was raised, but")]
)
def test_a_life_without_drift_says_why(tmp_path: Path, detected: bool, says: str) -> None:
    with Ledger(tmp_path) as ledger:
        visitors = TextVisitors.__new__(TextVisitors)
        visitors.house, visitors.needed = house(tmp_path, ledger), 1000
        assert visitors.no_drift(detected, 5000, 100).startswith(says)


class Still:
    """A child that lives, or one that has refused."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses

    def check(self) -> None:
        if self.refuses:
            raise up.Refused(2)


@pytest.mark.parametrize("names", [("oliveira",), ("oliveira", "outra")])
def test_a_life_that_cannot_go_on_ends_no_other(
    tmp_path: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    mine: Any = House(tmp_path, World(), port=0, quiet=True)
    mine.front, mine.loops = Still(), {name: Still(refuses=name == names[-1]) for name in names}
    mine.started = 0.0
    log = tmp_path / "lives" / "outra" / "logs" / "loop.log"
    log.parent.mkdir(parents=True)
    log.write_text("collect\noliveira: data.csv is not there. Give another.\n")
    with Ledger(tmp_path) as ledger, Ledger(tmp_path / "lives" / "outra") as other:
        mine.ledgers = dict(zip(names, (ledger, other), strict=False))
        if len(names) == 1:
            with pytest.raises(up.Refused):
                mine.check()
            return
        other.event("too_large", {"digest": "d" * 64, "mib": 900, "memory": 500})
        mine.check()
        mine.check()
    assert list(mine.loops) == ["oliveira"]
    assert capsys.readouterr().err.splitlines() == [
        "oliveira: life outra is not watched until the next start: data.csv is not there. Give another.",
        "oliveira: life outra: model dddddddddddd needs about 900 MiB, more than serve.memory = 500: "
        "it is served alone. Raise serve.memory, or compress the model.",
    ]


class Gone(Still):
    """A child whose folder was taken away: its log cannot be opened."""

    def check(self) -> None:
        raise FileNotFoundError(2, "No such file or directory", "loop.log")


def test_a_life_whose_folder_is_gone_ends_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine: Any = House(tmp_path, World(), port=0, quiet=True)
    mine.front, mine.loops, mine.ledgers, mine.started = Still(), {"oliveira": Still(), "outra": Gone()}, {}, 0.0
    mine.check()
    assert list(mine.loops) == ["oliveira"]
    assert "life outra is not watched until the next start: its loop ended." in capsys.readouterr().err


def test_a_damaged_ledger_is_one_lifes(tmp_path: Path) -> None:
    for name in ("oliveira", "outra", "av"):
        folder = make_place(tmp_path, name)
        (folder / "world.json").write_text("{}")
        Ledger(folder).close()
    (place(tmp_path, "av") / "ledger.sqlite").write_bytes(b"no ledger at all" * 300)
    mine: Any = House(tmp_path, World(), port=0, quiet=True)
    with contextlib.ExitStack() as stack:
        assert list(mine._ledgers(stack)) == ["oliveira", "outra"]
    assert lives_overview(tmp_path)["av"]["state"] == "damaged"
    mine.life = "av"
    with contextlib.ExitStack() as stack, pytest.raises(CorruptError):
        mine._ledgers(stack)
