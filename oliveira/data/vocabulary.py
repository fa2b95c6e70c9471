"""Texts of unequal length as one rectangle of tokens, and the small vocabularies of letters and of phonemes.

Id 0 is no symbol: it begins an answer, ends it, and fills a row up. A mask tells filling from ending.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError

NOTHING = 0  # also the id of a Tokenizer's end of text


class Codec(ABC):
    """Text ↔ tokens of one side of a pair. `NOTHING` is never a token of a text."""

    size: int  # tokens, `NOTHING` included

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Raises `KeyError` with what the vocabulary does not have."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str: ...

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """JSON from which `codec_from` makes it again."""


class Symbols(Codec):
    """A fixed list of symbols, numbered from 1: the letters of a word, or phonemes with spaces between them."""

    def __init__(self, symbols: Sequence[str], separator: str) -> None:
        self.symbols, self.separator = list(symbols), separator
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols, 1)}
        self.size = len(self.symbols) + 1

    @classmethod
    def of(cls, texts: Iterable[str], separator: str) -> Symbols:
        found = {symbol for text in texts for symbol in (text.split(separator) if separator else text)}
        return cls(sorted(found), separator)

    def encode(self, text: str) -> list[int]:
        return [self._ids[symbol] for symbol in (text.split(self.separator) if self.separator else text)]

    def decode(self, tokens: Iterable[int]) -> str:
        return self.separator.join(self.symbols[token - 1] for token in tokens if token != NOTHING)

    def state(self) -> dict[str, Any]:
        return {"symbols": self.symbols, "separator": self.separator}


class Pieces(Codec):
    """Byte-level BPE: every text has tokens."""

    def __init__(self, text: str) -> None:
        """`text`: the JSON that `Tokenizer.save` writes."""
        self._text, self._tokenizer = text, tokenizer_from(text)
        self.size = self._tokenizer.vocab_size

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        return self._tokenizer.decode(tokens).strip()

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self._text}


def codec_from(state: dict[str, Any]) -> Codec:
    return Pieces(state["tokenizer"]) if "tokenizer" in state else Symbols(state["symbols"], state["separator"])


@lru_cache(maxsize=8)
def tokenizer_from(text: str) -> Tokenizer:
    """A tokenizer from the JSON that `Tokenizer.save` writes."""
    try:
        return Tokenizer(Backend.from_str(text))
    except CorruptError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exception
        raise CorruptError(f"the tokenizer of the task cannot be read: {error}") from None


def padded(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Tokens (B, longest) filled up with `NOTHING`, and the mask of the real ones."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(max(1, lengths.max())) < lengths[:, None]
    tokens = np.full(mask.shape, NOTHING, dtype=np.int64)
    tokens[mask] = [token for row in rows for token in row]
    return tokens, mask
