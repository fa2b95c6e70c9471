"""docs/models/: a page for each model, made from its docstring, its config, its results and their curves."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

from oliveira.files import write_atomic
from oliveira.registry import Entry, entries
from oliveira.study.figures import FIGURES, NOT_VERIFIED, loses_to, spread, unit_of, words
from oliveira.study.recipes import RESULTS, is_verified, load, results_by_model
from oliveira.tasks.catalogue import tasks


def write_pages(folder: Path) -> list[Path]:
    """Writes one page per model and an index. Returns their paths."""
    results = results_by_model()
    texts = {f"{entry.name}.md": page(entry, results.get(entry.name, [])) for entry in entries()}
    for name, text in (texts | {"README.md": index(results)}).items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in [*texts, "README.md"]]


def index(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "# The catalogue",
        "",
        "Made by `oliveira pages`; a page for each model. Results are of the test split.",
        "",
    ]
    if not all(is_verified(result) for found in results.values() for result in found):
        lines += [f"Not verified: {NOT_VERIFIED}, so the code at hand may give other figures.", ""]
    lines += ["| model | family | eats → gives | checked against | results |", "| --- | --- | --- | --- | --- |"]
    for entry in entries():
        found = "<br>".join(_short(result) for result in results.get(entry.name, [])) or "none yet"
        lines.append(
            f"| [{entry.name}]({entry.name}.md) | {entry.family} | {entry.in_words} | {entry.reference} | {found} |"
        )
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
    lines = [f"### {result['title']}", "", f"`{result['command']}`", "", "| | | |", "| --- | --- | --- |"]
    for figure, value in result["test"].items():
        cell = spread(value, result.get("test_std", {}).get(figure, 0.0))
        if figure == metric["name"]:
            cell = f"**{spread(metric['mean'], metric['std'])}**"
        lines.append(f"| test {figure} | {cell} | {_note(result, figure)} |")
    if (found := result.get("validation", {}).get(metric["name"])) is not None:
        lines.append(f"| validation {metric['name']} | {found:#.4g} | settings were chosen there |")
    low, high = metric["band"]
    lines.append(f"| band | {low:#.4g} … {high:#.4g} | where another machine's mean should fall |")
    for baseline, level in result["baselines"].items():
        lines.append(f"| {baseline} | {level:#.4g} | {'beaten' if result['beats'][baseline] else '**not beaten**'} |")
    if result.get("paper"):
        lines.append(f"| paper | {result['paper']['value']} | {result['paper']['source']} |")
    lines.append(f"| parameters | {result['parameters']:,} | |")
    lines.append(f"| minutes, all seeds | {result['minutes']} | {result['device']} |")
    lines += ["", *(f"- {sentence}" for sentence in words(result, load(name))), ""]
    lines.append(f"![]({_up(RESULTS)}/{name}.png)")
    if (RESULTS / f"{name}-picture.png").exists():
        lines += ["", f"![]({_up(RESULTS)}/{name}-picture.png)"]
    return [*lines, ""]


def _note(result: dict[str, Any], figure: str) -> str:
    arrow = "↑" if FIGURES[figure].better == "higher" else "↓"
    seeds = f"; seeds {', '.join(map(str, result['seeds']))}" if figure == result["metric"]["name"] else ""
    return f"{arrow} {unit_of(result, figure)}{seeds}"


def _up(path: Path) -> str:
    return f"../../{path.name}"


def _short(result: dict[str, Any]) -> str:
    metric = result["metric"]
    unit = f" {metric['unit']}" if metric["unit"] else ""
    line = f"{result.get('task', result['recipe'])}: {spread(metric['mean'], metric['std'])}{unit} {metric['name']}"
    notes = [f"loses to {', '.join(lost)}"] if (lost := loses_to(result)) else []
    notes += ["not as expected"] if not all(result["met"].values()) else []
    notes += [] if is_verified(result) else ["not verified"]
    return f"{line} ({'; '.join(notes)})" if notes else line


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
