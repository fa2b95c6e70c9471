"""One form for every text: Unicode NFC, `\\n` for a new line, no control characters, no stray white space.

    nfc("cafe\\u0301")      → "café"
    clean("a\\r\\nb \\t c ")  → "a\\nb c"

Source: Unicode Standard Annex 15 (normalisation forms; stream-safe text).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

# Canonical ordering sorts every run of combining marks by insertion, which is quadratic: a megabyte of
# marks would take minutes. UAX 15 §13 (stream-safe text) bounds a run to 30 by putting U+034F in; prose is
# never touched.
_MAX_MARKS = 30
_GRAPHEME_JOINER = "\u034f"
_LONG_NON_ASCII = re.compile(r"[^\x00-\x7f]{512,}")

_NEW_LINE = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# C0 and C1 controls but tab and new line; zero-width space, byte-order mark, soft hyphen, directional
# overrides.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_SPACE = re.compile(r"[^\S\n ]")  # every white space that is neither a new line nor a plain space
_INNER_SPACES = re.compile(r"(?<=\S) {2,}(?=\S)")  # indentation stays: Markdown needs it
_TRAILING_SPACES = re.compile(r"(?<! ) +(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{3,}")


def nfc(text: str) -> str:
    """Unicode NFC in linear time; a lone surrogate (half a UTF-16 character, possible in JSON) becomes
    U+FFFD.
    """
    if text.isascii():
        return text
    text = whole(text)
    while True:  # twice as a rule: a run may grow past the bound when marks are taken apart
        safe = _LONG_NON_ASCII.sub(lambda match: _stream_safe(match.group()), text)
        normal = unicodedata.normalize("NFC", safe)
        if normal == text:
            return normal
        text = normal


def whole(text: str) -> str:
    """Each half of a UTF-16 character as U+FFFD: what has bytes in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _stream_safe(text: str) -> str:
    combining = {character for character in set(text) if unicodedata.combining(character)}
    if not combining:
        return text
    pieces, marks = [], 0
    for character in text:
        if character in combining:
            width = len(unicodedata.normalize("NFD", character))  # some marks are two marks in one
            if marks + width > _MAX_MARKS:
                pieces.append(_GRAPHEME_JOINER)
                marks = 0
            marks += width
        else:
            marks = 0
        pieces.append(character)
    return "".join(pieces)


def clean(text: str) -> str:
    """The form in which documents are compared, counted and trained on. `clean(clean(x)) == clean(x)`."""
    text = _NEW_LINE.sub("\n", text)
    text = _CONTROL.sub("", text)
    text = nfc(_SPACE.sub(" ", text))
    text = _TRAILING_SPACES.sub("", _INNER_SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip("\n").rstrip()


def cut(pieces: Iterable[str], limit: int) -> Iterator[str]:
    """Texts of at most `limit` characters that together are all `pieces`, cut at the end of a paragraph,
    line or word in the second half of the limit where there is one."""
    buffer = ""
    for piece in pieces:
        buffer += piece
        start = 0
        while len(buffer) - start > limit:
            end = start + limit
            for mark in ("\n\n", "\n", " "):
                place = buffer.rfind(mark, start + limit // 2, end)
                if place >= 0:
                    end = place + len(mark)
                    break
            yield buffer[start:end]
            start = end
        buffer = buffer[start:]
    if buffer:
        yield buffer


def unwrap(text: str) -> str:
    """Joins hard-wrapped lines to paragraphs, one a line.

    A break is taken for a wrap when the next line's first word would not have fitted on this one, or when
    the next line goes on in lower case. Verse, whose lines seldom reach a page's width, keeps its lines.
    """
    lines = [line.strip() for line in text.split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    if not lengths or (width := lengths[len(lengths) * 9 // 10]) < 56:
        return "\n".join(lines)
    paragraphs: list[str] = []
    previous = ""
    for line in lines:
        if previous and line and _is_wrap(previous, line, width):
            paragraphs[-1] += " " + line
        else:
            paragraphs.append(line)
        previous = line
    return "\n".join(paragraphs)


def _is_wrap(line: str, following: str, width: int) -> bool:
    open_sentence = line[-1] not in '.!?…:;»”"'
    if following[0].islower() and len(line) >= 0.6 * width:
        return True
    word = following.split(" ", 1)[0]
    full = len(line) + 1 + len(word) > 0.9 * width
    begins = (
        following.isupper() or following[0] in "—–-" or (len(word) > 2 and word.isupper())
    )  # heading, speech, speaker
    return full and (open_sentence or not begins)
