"""Changes one line of a copy of the program at a time and runs the tests that must notice.

    python -m mutations                 all of mutations.toml; results/mutations.json when all were run
    python -m mutations noam two-sides  these

A mutation that no test notices has survived; one whose old line is gone is out of date; one whose test fails without it
as well, or does not end, proves nothing. Each is a failure. The checkout is never touched: the copy is of what git
tracks, as it stands, in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from oliveira.files import write_json_atomic
from oliveira.study.provenance import ROOT, commit, is_clean

LIST = Path(__file__).with_name("mutations.toml")
RESULT = ROOT / "results" / "mutations.json"
# What a failed test leaves open is told at the end as an error of its own, in place of the summary that names the test.
QUIET = ("-W", "ignore::pytest.PytestUnraisableExceptionWarning")
PATIENCE = 900.0  # seconds for one mutation's tests; a program that does not end is noticed too


class Mutation(NamedTuple):
    name: str
    room: str
    file: str
    old: str
    new: str
    tests: list[str]


class Outcome(NamedTuple):
    name: str
    room: str
    outcome: str  # killed, survived, out of date, unproven
    seconds: float
    by: str  # the first test that failed


def mutations() -> list[Mutation]:
    return [Mutation(**row) for row in tomllib.loads(LIST.read_text(encoding="utf-8"))["mutation"]]


def copy_to(folder: Path) -> None:
    """What git tracks or would track, as it stands in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (source := ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def run_tests(folder: Path, tests: list[str], *, first: bool = True) -> tuple[int, list[str]]:
    """Exit code of pytest in the copy, 124 when it did not end in time, and what failed; `first`: stop there."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        *(["-x"] if first else []),
        "-q",
        "-p",
        "no:cacheprovider",
        *QUIET,
        *tests,
    ]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "CI": ""}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return 124, []
    lines = done.stdout.splitlines()
    return done.returncode, [line.split()[1] for line in lines if line.startswith(("FAILED tests", "ERROR tests"))]


def judge(folder: Path, mutation: Mutation) -> Outcome:
    """Mutates the copy, runs the tests, puts the file back."""
    path, started = folder / mutation.file, time.monotonic()
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(mutation.old) != 1:
        return Outcome(mutation.name, mutation.room, "out of date", 0.0, f"{text.count(mutation.old)} such lines")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        code, failed = run_tests(folder, mutation.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    if code not in (0, 1, 2, 124):  # 4, 5: no such test, nothing collected
        return Outcome(mutation.name, mutation.room, "out of date", 0.0, f"pytest ended with {code}")
    outcome = "killed" if code else "survived"
    by = failed[0] if failed else ("it did not end" if code == 124 else "")
    return Outcome(mutation.name, mutation.room, outcome, round(time.monotonic() - started, 1), by)


def proven(folder: Path, outcomes: list[Outcome]) -> list[Outcome]:
    """What noticed a mutation must pass without it."""
    noticed = sorted({found.by for found in outcomes if "::" in found.by})
    code, failed = run_tests(folder, noticed, first=False) if noticed else (0, [])
    broken = set(failed) if code in (0, 1) else set(noticed)
    return [
        found._replace(outcome="unproven")
        if found.outcome == "killed" and ("::" not in found.by or found.by in broken)
        else found
        for found in outcomes
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutations to run; all when none is named")
    parser.add_argument("--list", action="store_true", help="names them and ends")
    given = parser.parse_args()
    known = mutations()
    if given.list:
        print("\n".join(f"{m.name:<28} {m.room:<12} {m.file}" for m in known))
        return 0
    if unknown := set(given.names) - {m.name for m in known}:
        print(f"no such mutation: {', '.join(sorted(unknown))}. `--list` names them.", file=sys.stderr)
        return 2
    chosen = [m for m in known if not given.names or m.name in given.names]
    at = commit()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="oliveira-mutations-") as scratch:
        folder = Path(scratch)
        copy_to(folder)
        outcomes = []
        for mutation in chosen:
            outcomes.append(found := judge(folder, mutation))
            print(f"{found.outcome:<12} {found.name:<28} {found.seconds:6.1f} s  {found.by}", flush=True)
        outcomes = proven(folder, outcomes)
    for found in outcomes:
        if found.outcome != "killed":
            print(f"{found.outcome}: {found.name} ({found.by or 'no test noticed'})")
    killed = sum(found.outcome == "killed" for found in outcomes)
    minutes = (time.monotonic() - started) / 60
    print(f"{killed} of {len(outcomes)} killed in {minutes:.1f} minutes")
    if not given.names:
        if is_clean(at):
            write_json_atomic(RESULT, result(at, minutes, outcomes))
        else:
            print(f"{RESULT.name} is not written: commit {at} could not be had again.")
    return 0 if killed == len(outcomes) else 1


def result(at: str, minutes: float, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "command": "python -m mutations",
        "commit": at,
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
        "minutes": round(minutes, 1),
        "killed": sum(found.outcome == "killed" for found in outcomes),
        "of": len(outcomes),
        "mutations": [found._asdict() for found in outcomes],
    }


if __name__ == "__main__":
    raise SystemExit(main())
