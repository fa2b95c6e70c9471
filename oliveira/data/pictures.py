"""One picture of the user's, from the bytes of a file to grey values or colours of a given size.

    png, jpeg, webp, bmp, gif (its first frame), known by their first bytes; nothing else is tried
    turned as EXIF says; what is transparent is white; 16 bits become 8
    crop     the middle, as wide as it is high          pad   the whole, with black beside it
    stretch  the whole, its sides however long

The sides are read before anything is decoded: a file of a few bytes may unpack to gigabytes.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Fit = Literal["crop", "pad", "stretch"]
Colours = NDArray[np.uint8]  # (height, width, 3)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
MAX_BYTES, MAX_PIXELS = 64 << 20, 100_000_000  # of a file
ASKED_BYTES, ASKED_PIXELS = 4 << 20, 25_000_000  # of a request
_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp|bmp|gif);base64")
_COLOURFUL, _SHOWN = 24, 0.01  # levels between two channels, share of the pixels


class PictureError(ValueError):
    """Bytes are no picture that is taken; the reason in words."""


def read_picture(
    data: bytes, height: int, width: int, fit: Fit, *, most_bytes: int = MAX_BYTES, most_pixels: int = MAX_PIXELS
) -> Colours:
    """(height, width, 3). Raises `PictureError`."""
    return fitted(decode(data, max(height, width), most_bytes, most_pixels), height, width, fit)


def decode(data: bytes, side: int, most_bytes: int = MAX_BYTES, most_pixels: int = MAX_PIXELS) -> Image:
    """In mode RGB, upright; a JPEG perhaps smaller, but not below twice `side`. Raises `PictureError`."""
    from PIL import ImageOps

    image: Image = _header(data, most_bytes, most_pixels)
    try:
        if image.format == "JPEG":
            image.draft("RGB", (2 * side, 2 * side))
        image.load()
        return _colours(ImageOps.exif_transpose(image))
    except MemoryError:
        raise PictureError("it does not fit into memory") from None
    except Exception as error:  # a decoder raises whatever its format suggests
        reason = "it ends too early" if "truncated" in str(error) else f"damaged: {type(error).__name__}"
        raise PictureError(reason) from None


def fitted(image: Image, height: int, width: int, fit: Fit) -> Colours:
    from PIL import ImageOps

    if fit == "stretch":
        return np.asarray(image.resize((width, height)), dtype=np.uint8)
    how = ImageOps.fit if fit == "crop" else ImageOps.pad
    return np.asarray(how(image, (width, height)), dtype=np.uint8)


def sides(data: bytes) -> tuple[int, int]:
    """Height and width, from the first bytes alone. Raises `PictureError`."""
    width, height = _header(data, MAX_BYTES, MAX_PIXELS).size
    return height, width


def grey(colours: Colours) -> NDArray[np.uint8]:
    """(…, 3) → (…): 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601), rounded as Pillow does."""
    red, green, blue = (colours[..., channel].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)


def has_colour(colours: Colours) -> bool:
    spread = colours.max(axis=-1).astype(np.int16) - colours.min(axis=-1)
    return bool((spread > _COLOURFUL).mean() > _SHOWN)


def bytes_of_url(text: str) -> bytes:
    """What "data:image/png;base64,…" holds. Raises `PictureError`."""
    head, _, body = text.partition(",")
    if not _URL.fullmatch(head):
        raise PictureError('it does not begin with "data:image/png;base64," (or jpeg, webp, bmp, gif)')
    if len(body) * 3 // 4 > ASKED_BYTES + 3:
        raise PictureError(f"it has more than {ASKED_BYTES >> 20} MiB")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise PictureError("what follows base64, is not base64") from None


def url_of(pixels: NDArray[np.uint8]) -> str:
    """A picture as such a text: (height, width) grey or (height, width, 3)."""
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _header(data: bytes, most_bytes: int, most_pixels: int) -> ImageFile:
    if len(data) > most_bytes:
        raise PictureError(f"it has more than {most_bytes >> 20} MiB")
    opener = _opener(data)
    try:
        image: ImageFile = opener(io.BytesIO(data))
        width, height = image.size
    except Exception as error:  # a decoder raises whatever its format suggests
        raise PictureError(f"damaged: {type(error).__name__}") from None
    if width * height > most_pixels:
        raise PictureError(f"it unpacks to {width} × {height} pixels, more than {most_pixels // 10**6} million")
    if not width * height:
        raise PictureError("it has no pixels")
    return image


def _opener(data: bytes) -> Any:
    """The class that reads such bytes. Not `Image.open`: it tries forty formats, and warns of size by itself."""
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.GifImagePlugin import GifImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile
    from PIL.WebPImagePlugin import WebPImageFile

    if not data:
        raise PictureError("it is empty")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    starts = {b"\x89PNG": PngImageFile, b"\xff\xd8\xff": JpegImageFile, b"GIF8": GifImageFile, b"BM": BmpImageFile}
    for start, opener in starts.items():
        if data.startswith(start):
            return opener
    raise PictureError("neither png, jpeg, webp, bmp nor gif")


def _colours(image: Image) -> Image:
    """In mode RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits of grey
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
