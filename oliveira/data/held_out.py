"""A folder of texts in two: what is learned, and what then judges. What judges was never learned, not even in part.

Equal and nearly equal texts count once, related ones stay on one side, as when a life is prepared (`preprocess`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oliveira.data.dedupe import Detector
from oliveira.data.documents import Document
from oliveira.data.split import LEAK_FLAG, assign, position, refuse_leak, shared_shingles
from oliveira.errors import UserError

HELD_OUT = 0.1  # of the documents, at least one
NEAR_DUPLICATE = 0.8  # Jaccard similarity, as data.near_duplicate
TRIES = 200  # texts that are looked at when all that were drawn repeat others


@dataclass(frozen=True)
class Texts:
    learned: list[Document]
    held_out: list[Document]
    duplicates: int  # left out
    leakage: float  # share of the 13-word runs of the held-out texts that are learned all the same


def hold_out(documents: Sequence[Document], seed: int, folder: Path) -> Texts:
    """Raises `UserError`, which names `folder`, where no text is left that could judge."""
    detector = Detector()
    for document in documents:
        detector.add(document.text)
    found = detector.find(documents, NEAR_DUPLICATE)
    kept = [documents[index] for index in found.kept]
    groups = {documents[index].name: documents[found.group[index]].name for index in found.kept}
    if len(set(groups.values())) < 2:
        raise UserError(
            f"{folder} holds {_count(len(kept), len(documents))}, all of one kind: one must be held out to see what "
            "was learned. Divide the text into several files, or add text that differs."
        )
    side = assign(groups, seed=seed, validation=HELD_OUT, test=0.0)
    if len(set(side.values())) < 2:
        first = min(groups.values(), key=lambda group: position(seed, group))
        side = {name: "validation" if group == first else "train" for name, group in groups.items()}
    learned = [document for document in kept if side[document.name] == "train"]
    held_out = [document for document in kept if side[document.name] != "train"]
    while held_out and _known(held_out, learned) > LEAK_FLAG:  # a text that repeats learned ones judges nothing
        fresh = [document for document in held_out if _known([document], learned) <= LEAK_FLAG]
        learned, held_out = learned + [document for document in held_out if document not in fresh], fresh
    for document in sorted(kept, key=lambda each: position(seed, each.name))[:TRIES] if not held_out else ():
        others = [each for each in kept if groups[each.name] != groups[document.name]]
        if _known([document], others) <= LEAK_FLAG:  # those that were drawn repeat others, this one does not
            held_out, learned = [document], others
            break
    if not held_out:
        raise UserError(
            f"every text of {folder} repeats parts of the others: none can be held out and judge. "
            "Take out what repeats (headers, quotations), or add text that differs."
        )
    refuse_leak({"train": (d.text for d in learned), "validation": (d.text for d in held_out)})
    return Texts(learned, held_out, len(documents) - len(kept), _known(held_out, learned))


def _known(held_out: list[Document], learned: list[Document]) -> float:
    return shared_shingles((d.text for d in held_out), (d.text for d in learned))


def _count(kept: int, given: int) -> str:
    texts = "1 text" if kept == 1 else f"{kept} texts"
    return texts if kept == given else f"{texts} beside {given - kept} that repeat"
