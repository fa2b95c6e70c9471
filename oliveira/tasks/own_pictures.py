"""Pictures of the user's, a folder a class: `classify/path:fotos`, `classify/path:fotos.zip`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from oliveira.data.collection import Form
from oliveira.data.gallery import LARGEST, SMALLEST, Gallery, read_gallery
from oliveira.errors import UserError
from oliveira.tasks.base import Say
from oliveira.tasks.images import ACCURACY, ImageData
from oliveira.tasks.own_base import OwnTask


@dataclass(frozen=True, kw_only=True)
class OwnPictures(OwnTask):
    OPTIONS: ClassVar[tuple[str, ...]] = ("size",)
    KIND: ClassVar[str] = "classify"
    FORM: ClassVar[Form] = "pictures"
    size: int = 0  # of a side, pixels; 0: what suits the pictures

    def check(self) -> None:
        self.gallery()

    def gallery(self) -> Gallery:
        if self.size and not SMALLEST <= self.size <= LARGEST:
            raise UserError(f"--size {self.size} is not a side of {SMALLEST} to {LARGEST} pixels. Give one.")
        return read_gallery(self.path, self.size)

    def open(self, home: Path, say: Say) -> ImageData:
        found = self.gallery()
        self.say_all(found.said, say)
        labels = tuple((label, label) for label in found.labels)
        parts = (found.part(split) for split in ("train", "validation", "test"))
        data = ImageData(labels, 255, *parts, fit=found.fit, background="black")
        data.content = found.digest
        return data


PICTURES = OwnPictures(
    name="",
    title="which folder of {} a picture belongs to",
    eats="image",
    gives="one",
    metric=ACCURACY,
    licence="your own",
    path=Path(),
    train={"batch_size": 32, "lr": 2e-3, "warmup_steps": 30},
)
