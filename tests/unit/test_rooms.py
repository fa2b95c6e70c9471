"""The house's arrows run downwards only, and its files stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "oliveira"
# From the cellar to the roof: a room imports rooms below it only. A file of the package itself is a room of its own.
FLOORS = (
    ("errors", "files", "processors", "strict_json", "drawing", "language", "terminal", "kinds", "process", "settings"),
    ("compression", "nn", "registry", "models", "kernels"),
    ("data", "convert", "training", "tasks", "adaptation", "artifact", "export", "runs"),
    ("ledger", "memory", "monitoring", "console", "serving", "world", "lifecycle"),
    ("formulas", "library", "study", "cli", "__main__"),
)
HOUSE = [room for floor in FLOORS for room in floor]
# What rank alone does not forbid, with the outside packages that a room does without.
NEVER = {
    "data": {"training", "tasks", "models"},
    "models": {"training", "tasks"},
    "kernels": {"training", "tasks"},
    "compression": {"models", "kernels"},
    "serving": {"training", "tasks"},
    "monitoring": {"training", "tasks", "models", "fastapi", "starlette", "uvicorn"},
    "memory": {"training", "tasks", "models", "kernels", "fastapi", "starlette", "uvicorn"},
    "ledger": {"torch", "fastapi", "training", "tasks", "models", "data"},
    "process": {"torch", "fastapi"},
    "console": {"torch", "training", "tasks", "models"},
}
REGISTRATION = ("registry", "models")  # asked for its entries, the registry imports the room that registers them


def imports(path: Path) -> Iterator[str]:
    """Room names (for oliveira) and top-level packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "oliveira":
            names += [f"oliveira.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield parts[1] if parts[0] == "oliveira" and len(parts) > 1 else parts[0]


def rooms() -> set[str]:
    """Every folder and file of the package."""
    return {path.stem for path in PACKAGE.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"}


def files(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]


def test_every_room_has_its_floor() -> None:
    assert rooms() - {"__init__"} == set(HOUSE) and len(HOUSE) == len(set(HOUSE))


@pytest.mark.parametrize("room", HOUSE)
def test_no_arrow_runs_back_up(room: str) -> None:
    above = set(HOUSE[HOUSE.index(room) + 1 :]) | NEVER.get(room, set())
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(room)
        for name in imports(path)
        if name in above and (room, name) != REGISTRATION
    }
    assert not wrong


def test_the_front_has_no_torch() -> None:
    """Not even through what it imports."""
    code = "import sys, oliveira.serving.front.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_front_and_the_engine_meet_in_the_protocol() -> None:
    for side, other in (("front", "engine"), ("engine", "front")):
        for path in sorted((PACKAGE / "serving" / side).rglob("*.py")):
            assert f"oliveira.serving.{other}" not in _imported(path), path


def _imported(path: Path) -> set[str]:
    found = [node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {".".join((name or "").split(".")[:3]) for name in found}


def test_nothing_imports_the_command_line() -> None:
    others = [p for p in PACKAGE.rglob("*.py") if "cli" not in p.relative_to(PACKAGE).parts and p.name != "__main__.py"]
    assert others and not [path for path in others if "cli" in set(imports(path))]


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines()))
        > (350 if path.parent.name == "models" else 500)
    }
    assert not long


def test_no_absolute_path_is_written_down() -> None:
    for path in [*PACKAGE.rglob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        assert not [folder for folder in ("/work/", "/root/", "/home/") if folder in text], path


def test_files_that_documents_name_are_there() -> None:
    """As `oliveira/room/x.py` or `room/x.py`; the log and the changelog tell of the past."""
    pages = [p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")) if p.name not in {"LOG.md", "CHANGELOG.md"}]
    for page in pages:
        for name in re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.py)`", page.read_text(encoding="utf-8")):
            places = (ROOT / name, PACKAGE / name)
            assert any(path.is_file() for path in places) or page.name == "adding.md", f"{page.name} names {name}"
