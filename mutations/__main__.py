"""Changes one line of a copy of the program at a time and runs the tests that must notice.

    python -m mutations                 all of mutations.toml; results/mutations.json when all were run
    python -m mutations noam two-sides  these

A mutation that no test notices has survived; one whose old line is gone is out of date. Either is a failure. The
checkout is never touched: the copy is of what git tracks, as it stands, in a temporary folder.
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
from oliveira.provenance import ROOT, commit, is_clean

LIST = Path(__file__).with_name("mutations.toml")
RESULT = ROOT / "results" / "mutations.json"
PATIENCE = 3600.0  # seconds for all tests without a mutation
HANGS = 3.0  # times what all tests took: a mutated program that runs for longer does not end, and is noticed too


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
    outcome: str  # killed, survived, out of date
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


def run_tests(folder: Path, tests: list[str], patience: float) -> tuple[int, str]:
    """Exit code of pytest in the copy, and its output. 124: it did not end in time."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "CI": ""}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return 124, ""
    return done.returncode, done.stdout + done.stderr


def judge(folder: Path, mutation: Mutation, patience: float) -> Outcome:
    """Mutates the copy, runs the tests, puts the file back."""
    path, started = folder / mutation.file, time.monotonic()
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(mutation.old) != 1:
        return Outcome(mutation.name, mutation.room, "out of date", 0.0, f"{text.count(mutation.old)} such lines")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        code, output = run_tests(folder, mutation.tests, patience)
    finally:
        path.write_text(text, encoding="utf-8")
    failed = [
        line.split()[1] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR ")) and line.split()[1:]
    ]
    if code not in (0, 1, 2, 124):  # 4, 5: no such test, nothing collected
        return Outcome(mutation.name, mutation.room, "out of date", 0.0, f"pytest ended with {code}")
    outcome = "killed" if code else "survived"
    by = failed[0] if failed else ("it did not end" if code == 124 else "")
    return Outcome(mutation.name, mutation.room, outcome, round(time.monotonic() - started, 1), by)


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
        tests = sorted({test for mutation in chosen for test in mutation.tests})
        code, output = run_tests(folder, tests, PATIENCE)
        if code:
            print(f"the tests do not pass without a mutation (pytest: {code}):\n{output[-2000:]}", file=sys.stderr)
            return 2
        took = time.monotonic() - started
        print(f"{len(tests)} files of tests pass without a mutation in {took:.0f} s", flush=True)
        outcomes = []
        for mutation in chosen:
            outcomes.append(found := judge(folder, mutation, max(60.0, HANGS * took)))
            print(f"{found.outcome:<12} {found.name:<28} {found.seconds:6.1f} s  {found.by}", flush=True)
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
