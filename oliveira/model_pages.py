"""docs/models/: a page for each model, made from its docstring, its config, its results and their curves."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

from oliveira.files import write_atomic
from oliveira.recipes import RESULTS, results_by_model
from oliveira.registry import Entry, entries
from oliveira.tasks.catalogue import tasks


def write_pages(folder: Path) -> list[Path]:
    """Writes one page per model and an index. Returns their paths."""
    results = results_by_model()
    pages = {folder / f"{entry.name}.md": page(entry, results.get(entry.name, [])) for entry in entries()}
    pages[folder / "README.md"] = index(results)
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in pages.items():
        write_atomic(path, text.encode())
    return list(pages)


def index(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["# The catalogue", "", "Made by `oliveira pages`; a page for each model.", ""]
    lines += ["| model | family | eats → gives | checked against | results |", "| --- | --- | --- | --- | --- |"]
    for entry in entries():
        found = "<br>".join(_short(result) for result in results.get(entry.name, [])) or "none yet"
        kinds = f"{', '.join(entry.eats)} → {', '.join(entry.gives)}"
        lines.append(f"| [{entry.name}]({entry.name}.md) | {entry.family} | {kinds} | {entry.reference} | {found} |")
    return "\n".join([*lines, ""])


def page(entry: Entry, results: list[dict[str, Any]]) -> str:
    """One model: what it is, what it can be set to, what it runs on, what it reached."""
    module = sys.modules[entry.model.__module__]
    title, _, rest = (inspect.getdoc(module) or "").partition("\n")
    fits = [task.name for task in tasks().values() if entry.fits(task.eats, task.gives)]
    lines = [f"# {entry.name}", "", title, "", "```text", rest.strip("\n"), "```", ""]
    lines += ["## Config", "", "| field | type | default | |", "| --- | --- | --- | --- |"]
    comments = _comments(entry.config)
    for field in dataclasses.fields(entry.config):
        default = "set by the task" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        lines.append(
            f"| `{field.name}` | `{str(field.type).replace('|', 'or')}` | {default} | {comments[field.name]} |"
        )
    lines += ["", "## Runs on", "", ", ".join(f"`{name}`" for name in fits) or "no task yet", "", "```sh"]
    if fits:
        lines += [f"oliveira train {fits[0]} {entry.name}", f"oliveira export {fits[0]}/{entry.name}"]
        lines += [f"oliveira predict {fits[0]}/{entry.name}"]
    lines += ["```", "", "## Promises", ""]
    lines.append(f"Contract checks of `tests/contract/checks.py`; parity with {entry.reference} (`tests/parity`).")
    lines += [f"Exception: `{check}`: {reason}." for check, reason in entry.xfail.items()]
    lines += ["", "## Results", ""]
    for result in results:
        lines += _result(result)
    return "\n".join([*lines, "" if results else "None yet.\n"])


def _result(result: dict[str, Any]) -> list[str]:
    metric, name = result["metric"], result["recipe"]
    lines = [f"### {result.get('title', name)}", "", f"`{result['command']}`", "", "| | |", "| --- | --- |"]
    lines.append(f"| **{metric['name']}** | **{_short(result)}**, seeds {result['seeds']} |")
    if "band" in metric:
        lines.append(f"| band | {metric['band'][0]:.4g} … {metric['band'][1]:.4g} |")
    for key, value in result.get("baselines", result.get("peers", {})).items():
        lines.append(f"| {key} | {value:.4g} |")
    if result.get("paper"):
        lines.append(f"| paper | {result['paper']['value']} ({result['paper']['source']}) |")
    lines.append(f"| parameters, minutes | {result['parameters']:,}, {result['minutes']} on {result['device']} |")
    lines += ["", f"![]({_up(RESULTS)}/{name}.png)"]
    if (RESULTS / f"{name}-picture.png").exists():
        lines += ["", f"![]({_up(RESULTS)}/{name}-picture.png)"]
    return [*lines, ""]


def _up(path: Path) -> str:
    return f"../../{path.name}"


def _short(result: dict[str, Any]) -> str:
    metric = result["metric"]
    spread = f" ± {metric['std']:.2g}" if metric.get("std") else ""
    task = result.get("task", result["recipe"])
    return f"{task}: {metric['mean']:.4g}{spread} {metric['name']}"


def _comments(config: type) -> dict[str, str]:
    """The comment behind each field, of the class and of those it comes from."""
    found = {field.name: "" for field in dataclasses.fields(config)}
    for kind in config.__mro__:
        if not dataclasses.is_dataclass(kind):
            continue
        lines = inspect.getsource(kind).splitlines()
        for node in ast.parse("\n".join(lines)).body[0].body:  # type: ignore[attr-defined]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                _, separator, comment = lines[node.lineno - 1].partition("#")
                found[node.target.id] = comment.strip() if separator else found[node.target.id]
    return found
