"""Texts that are not UTF-8: what they are instead, as far as their bytes tell, and the command that mends them."""

from __future__ import annotations

import codecs
import re

_SAMPLE = 4096  # bytes
_C1 = re.compile("[\x80-\x9f]")
_MULTIBYTE = re.compile("[^\x00-\x7f\ufffd]")
_LETTERS = re.compile("[^\x00-\x7f]+")
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


def decoded(raw: bytes) -> tuple[str, str] | None:
    """The text and what it is written in; None where there are NUL bytes that no encoding explains."""
    if (wide := wide_encoding(raw)) or raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text, encoding = raw.decode(wide or "UTF-16", "replace"), wide or "UTF-16"
    elif b"\0" in raw:
        return None
    else:
        try:
            text, encoding = raw.decode("utf-8-sig"), "UTF-8"
        except UnicodeDecodeError:
            text, encoding = raw.decode("utf-8-sig", "replace"), "UTF-8 with damaged letters"
            if 2 * text.count("\ufffd") > sum(map(len, _LETTERS.findall(text))):  # few letters are right so
                text, encoding = raw.decode("cp1252", "replace"), "Windows-1252"
    return text.removeprefix("\ufeff"), encoding


def advice(error: UnicodeDecodeError, accents: bool = False) -> str:
    """What to do with bytes that are not UTF-8; `accents`: what came before them had letters that are."""
    text = error.object.decode("utf-8", "replace")
    if accents or len(_MULTIBYTE.findall(text)) > text.count(
        "\ufffd"
    ):  # most of it is UTF-8: another reading would spoil it
        return "The rest of it is: mend that place, or leave such bytes out: iconv -c -f UTF-8 -t UTF-8."
    # Bytes 0x80 to 0x9F are dashes and quotes of Windows-1252; ISO-8859-1 would make control characters of them. Where
    # there are none the two are the same.
    is_windows = any(0x80 <= byte <= 0x9F for byte in error.object[error.start :])
    looks = "It looks like Windows-1252" if is_windows else "It may be Windows-1252 (or ISO-8859-1, its older half)"
    return f"{looks}. Convert it: iconv -f WINDOWS-1252 -t UTF-8, or move it out of the folder."


def count_c1(text: str) -> int:
    """Control characters U+0080 to U+009F: no text has them but one that was converted from the wrong encoding."""
    return 0 if text.isascii() else len(_C1.findall(text))


def wrong_conversion(count: int) -> str:
    return (
        f"{count} control character(s) U+0080 to U+009F, which are left out. It was Windows-1252 and was converted as "
        "ISO-8859-1: dashes and quotes are lost. Convert the original again: iconv -f WINDOWS-1252 -t UTF-8."
    )
