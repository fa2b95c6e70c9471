"""docs/formulas.md: the registry as one Markdown page, with what each check has shown."""

from __future__ import annotations

from oliveira.formulas.registry import SEEDS, Formula, Result, Seed, formulas, run

_HEAD = """# The formulas of the seed documents

Written by `oliveira formulas docs`; do not edit. `oliveira formulas check ID` shows the figures.

*Right*: as published. *Incomplete*: right as far as it goes. *Wrong*: as written it does not do what its
heading says. A formula that a seed document gives in words is quoted. The default variant is the published form. A
variant marked **unsafe** is for study: later modules run it only with `allow_seed=True`.
"""


def render() -> str:
    """The whole page. Runs every check: a claim that fails is written down as such."""
    found = formulas()
    table = ["| id | seed document | verdict | default | where |", "| --- | --- | --- | --- | --- |"]
    table += [f"| [{f.id}](#{f.id}) | {headings(f)} | {f.verdict} | `{f.default}` | {_where(f)} |" for f in found]
    sources = [f"- **{number}** {name}" for number, name in SEEDS.items()]
    parts = [_HEAD, "\n".join(sources), "\n".join(table), *(_section(f, run(f)) for f in found)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def headings(formula: Formula) -> str:
    """`000 Perda PPO; 001 …`: seed document and heading, each once."""
    return "; ".join(dict.fromkeys(f"{seed.number} {seed.heading}" for seed in formula.seeds))


def _where(formula: Formula) -> str:
    return f"`{formula.where}`" if formula.where.startswith("oliveira.") else formula.where


def _mark(formula: Formula, variant: str) -> str:
    if variant in formula.unsafe:
        return " (**unsafe**)"
    return " (default)" if variant == formula.default else ""


def _section(formula: Formula, result: Result) -> str:
    variants = [f"- `{name}`{_mark(formula, name)}: {what}" for name, what in formula.variants.items()]
    claims = [f"- {'' if claim.holds else '**FAILS** '}{claim.sentence}" for claim in result.claims]
    return "\n\n".join(
        [
            f"## {formula.id}",
            f"**{formula.title}**: {formula.verdict}",
            *(_quote(seed) for seed in formula.seeds),
            "Published form:",
            f"```math\n{formula.published}\n```",
            f"Source: {formula.source}",
            formula.remarks,
            "\n".join(variants),
            f"Units: {formula.units}. Where: {_where(formula)}.",
            "The check shows:",
            "\n".join(claims),
        ]
    )


def _quote(seed: Seed) -> str:
    place = f"Seed document {seed.number}, *{seed.heading}*:"
    match seed.kind:
        case "latex":
            return f"{place}\n\n```math\n{seed.text}\n```"
        case "code":
            return f"{place}\n\n```\n{seed.text}\n```"
        case "words":
            return f"{place}\n\n> {seed.text}"
