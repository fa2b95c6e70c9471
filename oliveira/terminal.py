"""What every process of ours does with its output, in one place: no character and no full device may end it.

A stream that cannot print a character (`PYTHONIOENCODING=latin-1`, the C locale) gets a plain one in its place: our own
signs as people type them (`→` as `->`), letters without their accents, all else by its number (`\\u4e2d`).
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator

from oliveira.errors import DiskError

PLAIN = "oliveira-plain"  # our error handler, by the name that Python's codecs know it by
_SIGNS = {"→": "->", "←": "<-", "↔": "<->", "×": "x", "·": ".", "…": "...", "–": "-", "—": "-", "−": "-"}
_SIGNS |= {"≥": ">=", "≤": "<=", "≈": "~", "±": "+-", "“": '"', "”": '"', "‘": "'", "’": "'", "•": "*", "✓": "yes"}
_SIGNS |= {"━": "-", "─": "-", "│": "|", "█": "#", "╸": "-", "╺": "-"}


def set_up() -> None:
    """Call it first in every `main`: standard output and error print what they can of any text."""
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=PLAIN)
    if "--quiet" in sys.argv:  # of whatever command: no notes by the way, such as that kernels are compiled
        logging.getLogger("oliveira").setLevel(logging.ERROR)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_typed, error.object[error.start : error.end])), error.end


def _typed(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return letters or character.encode("ascii", "backslashreplace").decode()


def say_error(text: str) -> None:
    """One line on standard error; a terminal that is gone is no second failure."""
    with contextlib.suppress(OSError):
        print(f"oliveira: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Raises DiskError when standard output takes nothing (`> /dev/full`). A reader that left (`| head`) is none."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if not _output_fails():
            raise
        _discard_output()
        if error.errno == errno.EPIPE:
            raise SystemExit(1) from None
        reason = os.strerror(error.errno or errno.EIO)
        raise DiskError(
            f"cannot write to standard output: {reason}. Free some space there, or send it elsewhere."
        ) from None


def _output_fails() -> bool:
    """An empty line more tells our output from any other file."""
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"\n")
    except io.UnsupportedOperation:  # not a file of the system's
        return False
    except OSError:
        return True
    return False


def _discard_output() -> None:
    """Or Python would try the buffer once more at its end, and complain in its own words."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
