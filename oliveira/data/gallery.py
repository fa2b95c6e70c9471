"""Pictures of the user's, a folder (or a .zip) with a folder a class, ready to be learnt from.

size       given, else the commonest shorter side, a multiple of 4, 8 to 64
fit        the middle of each picture; the whole, padded, where most are longer than 3 : 2
grey       unless more than one picture in twenty has colour
split      by the hash of the content, each class in the same shares; copies (`alike`) stay on one side
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from oliveira.data import alike
from oliveira.data.collection import Collection, Member, collection
from oliveira.data.images import Pictures
from oliveira.data.pictures import (
    MAX_BYTES,
    Colours,
    Fit,
    PictureError,
    decode,
    fitted,
    grey,
    has_colour,
    sides,
)
from oliveira.data.split import assign_within
from oliveira.errors import UserError
from oliveira.files import sha256_bytes, sha256_json
from oliveira.processors import processors

SMALLEST, LARGEST, SUGGESTED = 4, 512, 64  # sides: of one that is asked for, of one that nobody asked for
FEWEST = 3  # different pictures of a class: one a split
MAX_MEMORY = 1 << 30  # bytes of all of them at their size
SHARES = {"validation": 0.15, "test": 0.15}
_SEED, _LOOKED_AT, _STEP = 0, 200, 4
_LONG, _COLOURED = 1.5, 0.05
T = TypeVar("T")


@dataclass(frozen=True)
class Gallery:
    pixels: NDArray[np.uint8]  # (N, size, size), in colour (N, size, size, 3)
    classes: NDArray[np.int64]  # (N,) places in `labels`
    labels: tuple[str, ...]
    split: NDArray[Any]  # (N,) names of splits
    fit: Fit
    said: tuple[str, ...]
    digest: str
    copies: int  # pictures that resemble another
    torn: int  # of them, those in another class than the one they resemble

    def part(self, split: str) -> Pictures:
        chosen = self.split == split
        return self.pixels[chosen], self.classes[chosen]


def read_gallery(path: Path, size: int = 0) -> Gallery:
    """`size` 0: guessed. Read once as long as no file changes. Raises `UserError` with one sentence."""
    with collection(path, "pictures") as found:
        signature = found.signature
    return _read(path, size, signature)


@functools.lru_cache(maxsize=2)
def _read(path: Path, size: int, signature: str) -> Gallery:
    with collection(path, "pictures") as found:
        side, fit, said = _shape(found, size)
        need = len(found.members) * (side * side + alike.SIDE**2) * 3
        if need > MAX_MEMORY:
            raise UserError(
                f"{path} holds {len(found.members)} pictures, {need >> 20} MiB at {side} × {side}, more than "
                f"{MAX_MEMORY >> 20}. Give fewer, or less --size."
            )

        def seen(member: Member) -> tuple[str, Colours, Colours]:
            data = found.bytes_of(member, MAX_BYTES)
            image = _decoded(found, member, lambda: decode(data, max(side, alike.SIDE)))
            small = fitted(image, alike.SIDE, alike.SIDE, "stretch")
            return sha256_bytes(data), fitted(image, side, side, fit), small

        with ThreadPoolExecutor(processors()) as pool:  # Pillow decodes outside the interpreter lock
            rows = list(zip(found.members, pool.map(seen, found.members), strict=True))
    rows.sort(key=lambda row: (row[1][0], row[0].label))  # by content: a new name changes nothing
    return _gallery(path, fit, [*found.said, *said], rows)


def _gallery(path: Path, fit: Fit, said: list[str], rows: list[tuple[Member, tuple[str, Colours, Colours]]]) -> Gallery:
    leaders = alike.groups_of(np.stack([small for _, (_, _, small) in rows]))
    given = [member.label for member, _ in rows]
    kinds: dict[str, set[int]] = {}
    for place, label in zip(leaders.tolist(), given, strict=True):
        kinds.setdefault(given[place], set()).add(place) if given[place] == label else None
    labels = tuple(sorted(label for label, different in kinds.items() if len(different) >= FEWEST))
    if len(labels) < 2:
        raise UserError(f"fewer than two classes of {path} hold {FEWEST} different pictures. Add pictures.")
    kept = [place for place, label in enumerate(given) if label in labels and given[leaders[place]] in labels]
    groups = {str(place): rows[leaders[place]][1][0] for place in kept}
    sides_of = assign_within({str(place): given[place] for place in kept}, groups, seed=_SEED, **SHARES)
    colours = np.stack([rows[place][1][1] for place in kept])
    coloured = sum(map(has_colour, colours))
    in_colour = coloured > _COLOURED * len(kept)
    number = {label: place for place, label in enumerate(labels)}
    copies = sum(int(leaders[place]) != place for place in kept)
    said = [f"{len(kept)} pictures in {len(labels)} classes", *said]
    said.append(f"{coloured} of them have colour: all are read {'in colour' if in_colour else 'as grey'}")
    if copies:
        said.append(f"{copies} pictures resemble another (identical, or resized): they stay on its side of the split")
    if rare := len(rows) - len(kept):
        said.append(f"{rare} pictures are left out: their class has fewer than {FEWEST} different ones")
    digests = sorted((given[place], rows[place][1][0]) for place in range(len(rows)))
    return Gallery(
        pixels=colours if in_colour else grey(colours),
        classes=np.array([number[given[place]] for place in kept], dtype=np.int64),
        labels=labels,
        split=np.array([sides_of[str(place)] for place in kept]),
        fit=fit,
        said=tuple(said),
        digest=sha256_json(digests),
        copies=copies,
        torn=sum(given[int(leaders[place])] != given[place] for place in kept),
    )


def _shape(found: Collection, size: int) -> tuple[int, Fit, list[str]]:
    """Side and fit, by the sides of a sample; in words too."""
    sample = found.members[:: max(1, len(found.members) // _LOOKED_AT)]
    shapes = np.array([_sides(found, member) for member in sample])
    shorter, longer = shapes.min(axis=1), shapes.max(axis=1)
    side = size or int(np.clip(np.median(shorter) // _STEP * _STEP, 2 * _STEP, SUGGESTED))
    fit: Fit = "pad" if np.median(longer / shorter) > _LONG else "crop"
    if (shapes == side).all():
        return side, fit, [f"all are {side} × {side}"]
    how = "the whole of each, with black beside it" if fit == "pad" else "the middle of each"
    return side, fit, [f"resized to {side} × {side}: {how}"]


def _sides(found: Collection, member: Member) -> tuple[int, int]:
    data = found.bytes_of(member, MAX_BYTES)
    return _decoded(found, member, lambda: sides(data))


def _decoded(found: Collection, member: Member, read: Callable[[], T]) -> T:
    try:
        return read()
    except PictureError as error:
        raise UserError(
            f"{found.path / member.name} is no picture that can be read: {error}. Mend it, or move it out."
        ) from None
