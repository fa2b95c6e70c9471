"""How a text becomes one row of tokens: by byte pairs as they are, or by BERT's word pieces between [CLS] and [SEP]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from oliveira.data.vocabulary import tokenizer_from
from oliveira.data.wordpiece import WordPiece
from oliveira.errors import CorruptError

Encode = Callable[[list[str]], list[list[int]]]


class Reader(NamedTuple):
    size: int  # tokens of its vocabulary
    encode: Encode
    before: list[int]
    after: list[int]

    def rows(self, texts: list[str], max_len: int) -> list[list[int]]:
        """Each text cut to `max_len` tokens."""
        room = max_len - len(self.before) - len(self.after)
        return [[*self.before, *tokens[:room], *self.after] for tokens in self.encode(texts)]


def reader_from(state: Mapping[str, Any]) -> Reader:
    """Of a task's state: `tokenizer`, the JSON of byte pairs, or `pieces` and `lowercase`."""
    if "tokenizer" in state:
        tokenizer = tokenizer_from(state["tokenizer"])
        return Reader(tokenizer.vocab_size, tokenizer.encode_many, [], [])
    try:
        pieces = _word_pieces(tuple(state["pieces"]), bool(state["lowercase"]))
    except KeyError as error:
        raise CorruptError(f"the state of this task has no {error.args[0]}: its texts cannot be read.") from None
    return Reader(pieces.vocab_size, pieces.encode_many, [pieces.cls], [pieces.sep])


@lru_cache(maxsize=4)
def _word_pieces(pieces: tuple[str, ...], lowercase: bool) -> WordPiece:
    return WordPiece(pieces, lowercase=lowercase)
