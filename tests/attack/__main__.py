"""Attacks a tiny life on this machine and asks after each attack whether the house still stands.

    python -m tests.attack                        all of them, in a temporary home, on loopback; ten minutes at most
    python -m tests.attack --only NAME …          these
    python -m tests.attack --list                 names them

After each one a completion must be answered, ledger, keys and artifacts must be what they were, and no process may have
died that was not killed on purpose. An attack that this machine cannot make is skipped by name.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from tests.attack.attacks import ATTACKS, Attack, Skipped
from tests.attack.life import Life

for room in ("heads", "bodies", "clients", "operators", "files", "machine", "kills"):  # each fills the list
    importlib.import_module(f"tests.attack.{room}")

WIDTH = max(map(len, ATTACKS))


class Outcome(NamedTuple):
    name: str
    outcome: str  # held, failed, skipped
    seconds: float
    note: str


def judge(life: Life, attack: Attack) -> Outcome:
    """Runs one attack and asks whether the house stands."""
    begun, outcome, note = time.monotonic(), "held", ""
    try:
        note = attack.act(life) or ""
        life.is_whole(killed=attack.kills)
    except Skipped as reason:
        outcome, note = "skipped", str(reason)
    except Exception as error:  # whatever went wrong, the next attack is made all the same
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome, note = "failed", f"{type(error).__name__} ({Path(place.filename).name}:{place.lineno}): {error}"
    return Outcome(attack.name, outcome, time.monotonic() - begun, note)


def mended(life: Life) -> None:
    """After a failure: a house that serves again, so that the next attack is judged by itself."""
    try:
        life.is_whole(killed=True)
    except Exception:
        life.house.kill()
        life.house.start().ready()
        life.pids = life.house.processes()


def line(found: Outcome) -> str:
    note = " ".join(found.note.split())[:400]
    return f"{found.outcome:<8} {found.name:<{WIDTH}} {found.seconds:6.1f} s  {note}".rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="attacks to make; all when none is named")
    parser.add_argument("--list", action="store_true", help="names them and ends")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{name:<{WIDTH}}  {attack.says}" for name, attack in ATTACKS.items()))
        return 0
    if unknown := set(given.only) - ATTACKS.keys():
        print(f"no such attack: {', '.join(sorted(unknown))}. `--list` names them.", file=sys.stderr)
        return 2
    os.environ["OLIVEIRA_LANG"] = "en"  # attacks read what the program says
    chosen = [attack for name, attack in ATTACKS.items() if not given.only or name in given.only]
    begun, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="oliveira-attack-", ignore_cleanup_errors=True) as folder:
        life = Life(Path(folder))
        with life.house:
            life.start()
            print(f"{'':<8} {'a tiny life serves':<{WIDTH}} {time.monotonic() - begun:6.1f} s", flush=True)
            for attack in chosen:
                outcomes.append(found := judge(life, attack))
                print(line(found), flush=True)
                if found.outcome == "failed":
                    mended(life)
    counted = {kind: sum(found.outcome == kind for found in outcomes) for kind in ("held", "failed", "skipped")}
    said = ", ".join(f"{number} {kind}" for kind, number in counted.items())
    print(f"{len(outcomes)} attacks: {said}; {(time.monotonic() - begun) / 60:.1f} minutes")
    return 1 if counted["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
