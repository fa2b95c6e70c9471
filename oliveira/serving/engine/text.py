"""Tokens into text as they come: whole characters only, and nothing that may turn out to be a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one choice while it grows.

    A byte-level token may end inside a UTF-8 character, and a stop string may span several tokens: `push`
    returns only what can no longer change. The text ends before the first stop string found.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [text for text in stop if text]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self.released = 0  # characters handed out
        self.stopped = False

    @property
    def length(self) -> int:
        """Characters decoded so far, handed out or not."""
        return len(self._text)

    def push(self, piece: bytes) -> str:
        """Adds the bytes of one token; returns the text that is safe to show."""
        self._text += self._decoder.decode(piece)
        return self._release(final=False)

    def finish(self) -> str:
        """No more tokens: the rest of the text."""
        if self.stopped:
            return ""
        self._text += self._decoder.decode(b"", final=True)
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        tail = self._text[self.released :]
        found = [at for stop in self._stop if (at := tail.find(stop)) >= 0]
        if found:
            self.stopped = True
            safe = tail[: min(found)]
        else:
            safe = tail if final else tail[: len(tail) - self._open(tail)]
        self.released += len(safe)
        return safe

    def _open(self, tail: str) -> int:
        """Length of the longest end of `tail` that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(tail)), 0, -1):
            if any(len(stop) > size and tail.endswith(stop[:size]) for stop in self._stop):
                return size
        return 0
