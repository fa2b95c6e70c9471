"""From collected documents to what a model eats: cleaned, without duplicates, split by document, in tokens.

    collected → clean → drop short, exact and near duplicates → split → tokenizer (of train) → shards

The same documents, config and seed give byte-identical files. Texts are read as often as needed, not kept:
a few hundred bytes of memory for each document.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oliveira.data.dedupe import Detector, Duplicates
from oliveira.data.documents import Document, DocumentFile, write_documents
from oliveira.data.report import lengths_histogram, to_markdown
from oliveira.data.settings import DataSection
from oliveira.data.shards import write_shard
from oliveira.data.split import LEAK_FLAG, SPLITS, assign, position, refuse_leak, shared_shingles
from oliveira.data.text import clean, cut
from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import UserError
from oliveira.files import sha256_file, write_json_atomic

FEW_DOCUMENTS = 20  # fewer are cut into SECTIONS, or there would be nothing to judge on
SECTIONS = 60
MIN_CHARACTERS = 5_000
_MIN_SECTION = 100
_SAMPLES = 3
_CONFIG = {"vocab_size", "validation", "test", "near_duplicate", "min_chars"}

Progress = Callable[[float, str], None]


def prepare(
    documents: Path, out: Path, *, config: DataSection, seed: int, tokenizer: Path | None, progress: Progress
) -> dict[str, Any]:
    """Reads `documents` (JSON lines) and fills the existing folder `out`:

    tokenizer.json, {train,validation,test}.{bin,index.json,jsonl}, report.json, report.md. Returns the
    report. `tokenizer` is used where given, else one is trained on the train split. `progress(share,
    what)` is called with shares from 0 to 1. Raises `UserError` when there is too little text.
    """
    source, sections = _open(documents)
    read = _read_all(source, config.min_chars, progress)
    duplicates = read.detector.find(_Chosen(source, read.indices), config.near_duplicate)
    split_of = assign(
        {read.names[index]: read.names[duplicates.group[index]] for index in duplicates.kept},
        seed=seed,
        validation=config.validation,
        test=config.test,
    )
    kept = {split: [index for index in duplicates.kept if split_of[read.names[index]] == split] for split in SPLITS}
    _refuse_too_little({split: sum(read.lengths[i] for i in members) for split, members in kept.items()}, config)
    for split, members in kept.items():
        write_documents(out / f"{split}.jsonl", _Chosen(source, [read.indices[index] for index in members]))
    splits = {split: DocumentFile(out / f"{split}.jsonl") for split in SPLITS}
    refuse_leak({split: _texts(file) for split, file in splits.items()})

    progress(0.45, "tokenizer")
    used = Tokenizer.load(tokenizer) if tokenizer else Tokenizer.train(_texts(splits["train"]), config.vocab_size)
    used.save(out / "tokenizer.json")
    table: dict[str, Any] = {}
    for number, (split, file) in enumerate(splits.items()):
        progress(0.6 + 0.1 * number, f"tokens of {split}")
        n_tokens, n_bytes = write_shard(out, split, _texts(file), used)
        table[split] = {
            "documents": len(file),
            "characters": sum(len(text) for text in _texts(file)),
            "bytes": n_bytes,
            "tokens": n_tokens,
            "bytes_per_token": round(n_bytes / n_tokens, 4),
        }
    progress(0.9, "leakage check")
    trained_on = {"vocab_size": used.vocab_size, "trained_here": tokenizer is None}
    report = {
        "input": {
            "documents": len(source),
            "cut_into_sections": sections,
            "shorter_than_min_chars": len(source) - len(read.indices),
        },
        "duplicates": _describe_duplicates(duplicates, read.names),
        "splits": table,
        "leakage": _leakage(splits),
        "lengths": lengths_histogram(read.lengths[index] for index in duplicates.kept),
        "tokenizer": trained_on | {"sha256": sha256_file(out / "tokenizer.json")},
        "samples": {split: _samples(file, seed) for split, file in splits.items()},
        "config": config.model_dump(include=_CONFIG) | {"seed": seed},
    }
    write_json_atomic(out / "report.json", report)
    (out / "report.md").write_text(to_markdown(report), encoding="utf-8", newline="\n")
    progress(1.0, "done")
    return report


class _Cleaned(Sequence[Document]):
    """The documents of a file, cleaned when looked at."""

    def __init__(self, file: DocumentFile) -> None:
        self._file = file

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]
        document = self._file[index]
        return document._replace(text=clean(document.text))

    def __iter__(self) -> Iterator[Document]:
        return (document._replace(text=clean(document.text)) for document in self._file)


class _Chosen(Sequence[Document]):
    """Some documents of a sequence, in a given order."""

    def __init__(self, documents: Sequence[Document], indices: Sequence[int]) -> None:
        self._documents, self._indices = documents, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]
        return self._documents[self._indices[index]]


@dataclass
class _Read:
    """What one pass over the source leaves in memory, for the documents that are long enough."""

    detector: Detector = field(default_factory=Detector)
    indices: list[int] = field(default_factory=list)  # into the source
    names: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # characters


def _open(path: Path) -> tuple[Sequence[Document], int]:
    """The cleaned documents; few ones cut into sections, of which the number is given (0 = not cut)."""
    documents = _Cleaned(DocumentFile(path))
    if len(documents) >= FEW_DOCUMENTS:
        return documents, 0
    parts = sections(list(documents))
    return parts, len(parts)


def sections(whole: Sequence[Document]) -> Sequence[Document]:
    """Fewer than FEW_DOCUMENTS cleaned documents are cut into about SECTIONS parts; more stay what they are."""
    if len(whole) >= FEW_DOCUMENTS:
        return whole
    size = max(_MIN_SECTION, sum(len(document.text) for document in whole) // SECTIONS)
    return [
        Document(f"{document.name} §{number}", clean(text))
        for document in whole
        for number, text in enumerate(cut([document.text], size), 1)
    ]


def _read_all(source: Sequence[Document], min_chars: int, progress: Progress) -> _Read:
    read = _Read()
    step = max(1, len(source) // 50)
    for index, (name, text) in enumerate(source):
        if index % step == 0:
            progress(0.35 * index / len(source), "cleaning and comparing documents")
        if len(text) >= min_chars:
            read.indices.append(index)
            read.names.append(name)
            read.lengths.append(len(text))
            read.detector.add(text)
    progress(0.35, "removing duplicates")
    return read


def _texts(documents: Iterable[Document]) -> Iterator[str]:
    return (document.text for document in documents)


def _refuse_too_little(characters: dict[str, int], config: DataSection) -> None:
    total = sum(characters.values())
    if total < MIN_CHARACTERS:
        raise UserError(
            f"the source leaves {total:,} characters after cleaning and removing duplicates, "
            f"at least {MIN_CHARACTERS:,} are needed. Add text or choose another data source."
        )
    for split, share in (("validation", config.validation), ("test", config.test), ("train", None)):
        if not characters[split]:
            wished = f"data.{split} = {share:g}" if share is not None else f"data.validation = {config.validation:g}"
            raise UserError(
                f"{wished} leaves no document for {split} among {total:,} characters that are all alike. "
                "Add text that differs, or raise data.near_duplicate."
            )


def _describe_duplicates(duplicates: Duplicates, names: list[str]) -> dict[str, Any]:
    return {
        "exact": len(duplicates.exact),
        "near": len(duplicates.near),
        "kept_together": len(duplicates.kept) - len({duplicates.group[index] for index in duplicates.kept}),
        "examples": [[names[dropped], names[kept], 1.0] for dropped, kept in duplicates.exact[:_SAMPLES]]
        + [[names[dropped], names[kept], round(j, 3)] for dropped, kept, j in duplicates.near[:_SAMPLES]],
    }


def _leakage(splits: dict[str, DocumentFile]) -> dict[str, Any]:
    shares = {split: round(shared_shingles(_texts(splits[split]), _texts(splits["train"])), 6) for split in SPLITS[1:]}
    return {"exact_documents": 0, "shared_13_word_runs": shares, "flagged": max(shares.values()) > LEAK_FLAG}


def _samples(documents: DocumentFile, seed: int) -> list[dict[str, str]]:
    chosen = heapq.nsmallest(_SAMPLES, documents, key=lambda document: position(seed + 1, document.name))
    return [{"name": document.name, "text": document.text[:300]} for document in chosen]
