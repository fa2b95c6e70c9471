"""The house's arrows run downwards only, and its files stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "oliveira"
# Room → rooms (or packages) it must never import.
NEVER = {
    "nn": {"models", "tasks", "training", "serving", "lifecycle", "cli"},
    "models": {"training", "serving", "lifecycle", "cli"},
    "data": {"training", "serving", "lifecycle", "cli", "tasks"},
    "training": {"serving", "lifecycle", "cli", "tasks"},
    "serving": {"training", "cli"},
    "monitoring": {"serving", "cli", "lifecycle", "training", "fastapi", "starlette", "uvicorn"},
    "compression": {"serving", "lifecycle", "cli", "training"},
    "adaptation": {"serving", "lifecycle", "cli"},
    "kernels": {"serving", "lifecycle", "cli", "training", "memory", "tasks"},
    "memory": {"serving", "lifecycle", "cli", "training", "models", "kernels", "fastapi", "starlette", "uvicorn"},
    "export": {"serving", "lifecycle", "cli", "training"},
}


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


@pytest.mark.parametrize("room", sorted(NEVER))
def test_no_arrow_runs_back_up(room: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (PACKAGE / room).rglob("*.py")
        for name in imports(path)
        if name in NEVER[room]
    }
    assert not wrong


def test_nothing_imports_the_command_line() -> None:
    files = [p for p in PACKAGE.rglob("*.py") if "cli" not in p.relative_to(PACKAGE).parts and p.name != "__main__.py"]
    assert files and not [path for path in files if "cli" in set(imports(path))]


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
