"""Writes constraints.txt: every package that tests and CI install, pinned to what a fresh environment gets today.

    make lock                                  # a new environment from pyproject's ranges, a few minutes
    python .ci/lock.py --of .venv/bin/python   # of an environment that is there
    python .ci/lock.py --differs PYTHON        # writes nothing: what that environment has otherwise

Only names and versions: no address, no path, no local part (`2.13.0+cpu` satisfies `==2.13.0`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints.txt"
HEADER = """\
# Written by `make lock`, never by hand: what `make up`, `make test` and CI install. Made on Python {python}, x86-64
# Linux; torch's CUDA build brings more, which it pins itself. `pip install` alone follows pyproject.toml's ranges."""
OURS = {"oliveira", "pip"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lines(installed: list[tuple[str, str]], files: list[str], python: str) -> str:
    """The file's text."""
    pins = {f"{name}=={version.partition('+')[0]}" for name, version in installed if name.lower() not in OURS}
    body = sorted(pins, key=str.lower)
    return "\n".join([HEADER.format(python=python), *body, "# Read as files by tests/parity:", *files]) + "\n"


def pinned() -> dict[str, str]:
    rows = (line.partition("==") for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name: version for name, _, version in rows}


def differences(installed: list[tuple[str, str]]) -> list[str]:
    pins = pinned()
    plain = ((name, version.partition("+")[0]) for name, version in installed)
    return [f"{name} {pins[name]} -> {version}" for name, version in plain if pins.get(name, version) != version]


def installed(python: Path) -> list[tuple[str, str]]:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return [(package["name"], package["version"]) for package in found]


def fresh(folder: Path) -> Path:
    """The interpreter of a new environment with the newest that pyproject allows."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    extras = ",".join(PROJECT["project"]["optional-dependencies"])
    everything = [*PROJECT["build-system"]["requires"], f"{ROOT}[{extras}]"]
    free = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *everything], check=True, env=free)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", type=Path, metavar="PYTHON", help="Interpreter of an environment that is there.")
    parser.add_argument("--differs", type=Path, metavar="PYTHON", help="Interpreter of an environment to compare.")
    given = parser.parse_args()
    if given.differs:
        print(", ".join(differences(installed(given.differs))) or "every version is the pinned one")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = installed(given.of or fresh(Path(folder)))
    text = lines(found, PROJECT["dependency-groups"]["weights"], f"{sys.version_info.major}.{sys.version_info.minor}")
    new = LOCK.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(LOCK)
    print(f"{LOCK.name}: {len(found)} packages. Now say `make test`, and commit it if that passes.")


if __name__ == "__main__":
    main()
