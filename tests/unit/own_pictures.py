"""Small pictures in class folders, for tests."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = {"gatos": (200, 60, 40), "cães": (40, 90, 200)}


def picture(seed: int, height: int = 24, width: int = 24, colour: tuple[int, int, int] = (128, 128, 128)) -> Any:
    """Blocks of 4 × 4 around a colour: no two seeds alike."""
    random = np.random.default_rng(seed)
    blocks = random.integers(-40, 40, (-(-height // 4), -(-width // 4), 1)) + np.array(colour)
    return Image.fromarray(np.kron(blocks, np.ones((4, 4, 1))).clip(0, 255).astype(np.uint8)[:height, :width])


def packed(image: Any, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def put_pictures(folder: Path, count: int = 12, height: int = 24, width: int = 24) -> Path:
    for number, (label, colour) in enumerate(CLASSES.items()):
        (folder / label).mkdir(parents=True)
        for n in range(count):
            data = packed(picture(1000 * number + n, height, width, colour))
            (folder / label / f"{n}.png").write_bytes(data)
    return folder


def put_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
