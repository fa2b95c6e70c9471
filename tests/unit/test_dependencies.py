"""The core's dependency tree is counted; each direct dependency has its reason in docs/dependencies.md."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
CORE = [Requirement(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]


def tree(requirements: list[Requirement], seen: set[str]) -> set[str]:
    for requirement in requirements:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
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
