"""What a text is written in, as far as its bytes tell: a byte-order mark, UTF-16, UTF-8, else Windows-1252."""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

_SAMPLE = 4096  # bytes
_C1 = re.compile("[\x80-\x9f]")
_ASCII = re.compile("[\x00-\x7f]+")
_DAMAGED = re.compile("[\ud800-\udfff]")
_BOMS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def wide_encoding(start: bytes) -> str:
    """ "UTF-16", "UTF-32LE", … of a file that begins so, as iconv calls it; empty for all else."""
    for mark, name in _BOMS:
        if start.startswith(mark):
            return name
    sample = start[: min(len(start), _SAMPLE) // 4 * 4]
    if len(sample) < 8:
        return ""
    # Of text in Latin letters without a mark, three bytes of four, or every second one, are NUL.
    zeros = "".join(str(int(sample[place::4].count(0) * 4 > len(sample) * 0.6)) for place in range(4))
    return {"0111": "UTF-32LE", "1110": "UTF-32BE", "0101": "UTF-16LE", "1010": "UTF-16BE"}.get(zeros, "")


@dataclass(frozen=True)
class Encoding:
    codec: str  # as Python calls it
    said: str  # for a person


UTF_8 = Encoding("utf-8-sig", "UTF-8")


def encoding_of(chunks: Iterable[bytes]) -> Encoding | None:
    """What a text in pieces is written in, in one pass; None where there are NUL bytes that no encoding explains."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # a damaged byte is a lone surrogate
    letters = damaged = 0
    for number, chunk in enumerate(itertools.chain(chunks, (b"",))):
        if not number and (wide := wide_encoding(chunk)):
            return Encoding(wide, wide)
        if b"\0" in chunk:
            return None
        piece = decoder.decode(chunk, final=not chunk)
        if not piece.isascii():
            others = _ASCII.sub("", piece)
            letters, damaged = letters + len(others), damaged + len(_DAMAGED.findall(others))
    if not damaged:
        return UTF_8
    if 2 * damaged > letters:  # few letters are right so
        return Encoding("cp1252", "Windows-1252")
    return Encoding("utf-8-sig", "UTF-8 with damaged letters")


def decoded(raw: bytes) -> tuple[str, str] | None:
    """The text and what it is written in; None as `encoding_of` has it."""
    if (encoding := encoding_of([raw])) is None:
        return None
    return raw.decode(encoding.codec, "replace").removeprefix("\ufeff"), encoding.said


def count_c1(text: str) -> int:
    """Control characters U+0080 to U+009F: no text has them but one that was converted from the wrong encoding."""
    return 0 if text.isascii() else len(_C1.findall(text))


def wrong_conversion(count: int) -> str:
    return (
        f"{count} control character(s) U+0080 to U+009F, which are left out. It was Windows-1252 and was converted as "
        "ISO-8859-1: dashes and quotes are lost. Convert the original again: iconv -f WINDOWS-1252 -t UTF-8."
    )
