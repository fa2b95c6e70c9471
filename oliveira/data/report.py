"""The data report as a page: what came in, what was left out and why, what the model will see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_EDGES = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)  # characters


def lengths_histogram(lengths: Iterable[int]) -> dict[str, int]:
    """Documents by length in characters: "100-299" → how many."""
    bounds = (0, *_EDGES)
    labels = [f"{low}-{high - 1}" for low, high in zip(bounds, _EDGES, strict=False)] + [f"{_EDGES[-1]}-"]
    counts = dict.fromkeys(labels, 0)
    for length in lengths:
        counts[labels[sum(length >= edge for edge in _EDGES)]] += 1
    return counts


def to_markdown(report: dict[str, Any]) -> str:
    """`report.json` for people."""
    given, duplicates, leakage = report["input"], report["duplicates"], report["leakage"]
    lines = ["# Data report", ""]
    cut = f", cut into {given['cut_into_sections']} sections (few documents)" if given["cut_into_sections"] else ""
    lines += [
        f"- Came in: {given['documents']:,} documents{cut}.",
        f"- Left out: {given['shorter_than_min_chars']:,} too short, {duplicates['exact']:,} exact and "
        f"{duplicates['near']:,} near duplicates.",
        f"- Kept on one side of the split because they resemble another: {duplicates['kept_together']:,}.",
        f"- Tokenizer: {report['tokenizer']['vocab_size']:,} tokens, "
        + ("trained on the train split." if report["tokenizer"]["trained_here"] else "given."),
        "",
        "| split | documents | characters | bytes | tokens | bytes per token |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for split, row in report["splits"].items():
        counts = " | ".join(f"{row[column]:,}" for column in ("documents", "characters", "bytes", "tokens"))
        lines.append(f"| {split} | {counts} | {row['bytes_per_token']:.2f} |")
    shares = ", ".join(f"{split} {share:.2%}" for split, share in leakage["shared_13_word_runs"].items())
    warning = " **More than it should be: held-out numbers flatter.**" if leakage["flagged"] else ""
    lines += [
        "",
        "## Leakage",
        "",
        f"No document is in two splits. 13-word runs also found in train: {shares}.{warning}",
    ]
    lines += ["", "## Lengths", "", "| characters | documents |", "| --- | --- |"]
    lines += [f"| {label} | {count:,} |" for label, count in report["lengths"].items()]
    if duplicates["examples"]:
        lines += [
            "",
            "## Duplicates, for example",
            "",
            "| left out | because of | similarity |",
            "| --- | --- | --- |",
        ]
        lines += [f"| {_cell(left)} | {_cell(kept)} | {share:.2f} |" for left, kept, share in duplicates["examples"]]
    lines += ["", "## Samples"]
    for split, samples in report["samples"].items():
        for sample in samples:
            lines += ["", f"**{split}: {_cell(sample['name'])}**", "", f"> {_cell(sample['text'])} …"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
