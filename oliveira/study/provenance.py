"""What a published number depends on: the commit, and a digest of every file that had a say in it.

    model       the model's module and what it imports of the rooms `models` and `nn`
    task        the task's module, its readers and what they import of `tasks` and `data`
    training    the loop, the optimiser, the losses, `runs` (or `world_recipe`)
    settings    task, model, seeds, budget, sizes; the training section with the defaults that it takes from the house

A digest is of the code: comments and docstrings aside, so that a better sentence makes no number stale. Left out are
converters (no recipe trains through one), routes and user folders (a source's rows are pinned by their own sha256,
whatever way they came), catalogues, and `kernels`, whose layers are held to torch's by tests of their own.
"""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from oliveira.errors import UserError
from oliveira.files import sha256_bytes, sha256_json

ROOT = Path(__file__).parents[2]
ROOMS = {"data", "models", "nn", "tasks", "training"}
APART = ("routes", "folder", "catalogue")  # beginnings of module names without a say
LOOP = ("oliveira.training.loop", "oliveira.training.loss", "oliveira.runs.run")
WORLD_TASK = ("oliveira.data.preprocess", "oliveira.data.sources", "oliveira.tasks.language_modelling")
WORLD_LOOP = ("oliveira.training.loop", "oliveira.training.loss", "oliveira.study.world_recipe")
TRAINS = ("task", "model", "seeds", "budget", "config", "train", "world", "twin")  # of a recipe; the rest is words

Files = dict[str, dict[str, str]]  # group → file → digest


def files_of(recipe: dict[str, Any]) -> Files:
    """Digests of what has a say in a recipe's numbers, each file in the first group that reaches it."""
    settings = {key: sha256_json(recipe[key]) for key in TRAINS if key in recipe}
    if "world" in recipe:
        from oliveira.world import World

        settings["defaults"] = sha256_json(World.model_validate(recipe["world"]).model_dump(include=_PARTS))
        roots = {"model": ("oliveira.models.gpt",), "task": WORLD_TASK, "training": WORLD_LOOP}
    else:
        from oliveira.runs.run import section_for
        from oliveira.tasks.catalogue import pair

        task, entry = pair(recipe["task"], recipe["model"])
        settings["defaults"] = sha256_json(section_for(task, entry, recipe.get("train", {}), steps=1).model_dump())
        roots = {"model": (entry.model.__module__,), "task": (type(task).__module__,), "training": LOOP}
    found: Files = {}
    taken: set[str] = set()
    for group, modules in roots.items():
        paths = sorted(reached(modules) - taken)
        taken.update(paths)
        found[group] = {path: _digest(*_version(path)) for path in paths}
    return found | {"settings": settings}


_PARTS = {"model", "train", "data", "seed"}  # of a world, what a number depends on


def reached(modules: tuple[str, ...]) -> set[str]:
    """Files of these modules and of all that they import, at any depth, inside the rooms that train."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        path = _file(waiting.pop())
        if path is not None and path not in found:
            found.add(path)
            waiting += [name for name in _imported(*_version(path)) if _counts(name)]
    return found


def _counts(module: str) -> bool:
    parts = module.split(".")
    return len(parts) > 2 and parts[1] in ROOMS and not parts[2].startswith(APART)


def _file(module: str) -> str | None:
    path = Path(*module.split(".")).with_suffix(".py")
    return path.as_posix() if (ROOT / path).is_file() else None


def _version(path: str) -> tuple[Path, int]:
    """What a cache may go by: the checkout can change while a program runs."""
    return ROOT / path, (ROOT / path).stat().st_mtime_ns


@lru_cache(maxsize=1024)
def _imported(path: Path, version: int) -> frozenset[str]:
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8"))))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # a module, or a name that is no file


@lru_cache(maxsize=1024)
def _digest(path: Path, version: int) -> str:
    return sha256_bytes(code(path.read_text(encoding="utf-8")).encode())


def code(source: str) -> str:
    """The lines that run: no comments, no docstrings, no blank lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if first is not None and first.lineno == getattr(node, "lineno", 0):
            continue  # `def f(): "…"`: no line of its own
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            lines[first.lineno - 1 : first.end_lineno] = [""] * ((first.end_lineno or 0) - first.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def differing(then: Files, now: Files) -> list[str]:
    """What is not as it was, in words: "model: oliveira/nn/norm.py"."""
    return [
        f"{group}: {name}"
        for group in sorted(then.keys() | now.keys())
        for name in sorted(then.get(group, {}).keys() | now.get(group, {}).keys())
        if then.get(group, {}).get(name) != now.get(group, {}).get(name)
    ]


def commit() -> str:
    """What is checked out, "-dirty" when a file of the program or a recipe differs; "unknown" outside a repository."""
    changed = _git("status", "--porcelain", "--", "oliveira", "recipes", "pyproject.toml")
    return (_git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if changed else "")


def is_clean(name: str) -> bool:
    return not (name.endswith("-dirty") or name == "unknown")


def clean_commit() -> str:
    """The commit of a result that is to be published. `UserError` when nobody could check it out again."""
    if not is_clean(found := commit()):
        raise UserError(
            f"a result of commit {found} could not be had again: --write is refused and nothing was trained. Commit "
            "what differs in oliveira/, recipes/ and pyproject.toml (in a git checkout), or leave out --write."
        )
    return found


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git at all
        return ""
    return done.stdout.strip()
