"""Byte-level byte-pair encoding: every text has tokens, every sequence of tokens has bytes.

Paper: Sennrich et al. 2016, arXiv:1508.07909; on bytes as in GPT-2 (Radford et al. 2019).

Text is cut into words (a space belongs to the word behind it), each word into bytes, and pairs of
neighbours are merged in the order that training found them frequent. Trained and run by Hugging Face
`tokenizers` (Rust); the file is its JSON format.

Deviations: words, numbers and runs of signs are cut after 48, 3 and 48 characters, so that a hostile
"word" of a megabyte costs no more than prose. `<|endoftext|>` in a text is text: only the program writes
the token.
What came with a model from elsewhere keeps its own rules: `oliveira.data.brought_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from oliveira.data.text import nfc
from oliveira.errors import CorruptError

END_OF_TEXT = "<|endoftext|>"
MAX_RUN = 256  # a longer run of one character is encoded once and repeated
_WORD = r" ?[\p{L}\p{M}]{1,48}| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]{1,48}|\s{1,48}(?!\S)|\s{1,48}"


class Tokenizer:
    """Text ↔ tokens. `decode(encode(text)) == nfc(text)` for every text."""

    def __init__(self, backend: Backend) -> None:
        backend.encode_special_tokens = True  # the literal `<|endoftext|>` is ordinary characters
        self._backend = backend
        self.vocab_size: int = backend.get_vocab_size()
        end_of_text = backend.token_to_id(END_OF_TEXT)
        if end_of_text is None:
            raise CorruptError(f"the tokenizer has no {END_OF_TEXT} token")
        self.end_of_text: int = end_of_text
        self.stops: tuple[int, ...] = (end_of_text,)  # tokens that end an answer
        self.begin: tuple[int, ...] = ()  # tokens before every text
        from_character = {character: byte for byte, character in byte_characters().items()}
        by_id = {index: token for token, index in backend.get_vocab().items()}
        try:
            self._bytes = [bytes(from_character[c] for c in by_id[i]) for i in range(self.vocab_size)]
        except KeyError as error:
            raise CorruptError(f"the tokenizer is not a byte-level one: {error} is unknown") from None
        self._bytes[self.end_of_text] = b""

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learns merges until there are `vocab_size` tokens or no pair occurs twice. Same texts, same
        file.
        """
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORD), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[END_OF_TEXT],  # id 0
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(map(nfc, texts), trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Raises `CorruptError` when the file is not a tokenizer."""
        from oliveira.data import brought_tokenizer  # it is one of these

        try:
            text = Path(path).read_text(encoding="utf-8")
            if text.startswith(brought_tokenizer.HEAD):
                return brought_tokenizer.loads(text)
            return cls(Backend.from_str(text))
        except CorruptError:
            raise
        except Exception as error:  # `tokenizers` raises bare Exception
            raise CorruptError(f"{Path(path).name} is not a tokenizer: {error}") from None

    def save(self, path: Path) -> None:
        Path(path).write_text(self._backend.to_str() + "\n", encoding="utf-8", newline="\n")

    def to_json(self) -> str:
        """The tokenizer.json that Hugging Face's programs read."""
        return str(self._backend.to_str())

    def encode(self, text: str) -> list[int]:
        """Never a special token: their names in a text are text."""
        return self.encode_many([text])[0]

    def prompt(self, text: str) -> list[int]:
        """What a model reads before it goes on; an empty text is the end of an earlier one."""
        return [*self.begin, *self.encode(text)] or [self.end_of_text]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode` for each text, on all cores."""
        cut = [_cut_runs(nfc(text)) for text in texts]
        encoded = iter(self._backend.encode_batch_fast([piece for pieces in cut for piece, _ in pieces]))
        result = []
        for pieces in cut:
            tokens: list[int] = []
            for _, repeats in pieces:
                tokens += next(encoded).ids * repeats
            result.append(tokens)
        return result

    def decode(self, tokens: Iterable[int]) -> str:
        """The text; bytes that are not UTF-8 (a model may write half a character) become U+FFFD.
        `end_of_text` is nothing.
        """
        return b"".join(self._bytes[token] for token in tokens).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for, for incremental decoding of a stream."""
        return self._bytes[token]


def _cut_runs(text: str) -> list[tuple[str, int]]:
    """`text` as (piece, repeats): a run of one character longer than MAX_RUN becomes one piece of MAX_RUN,
    repeated.
    """
    if len(text) <= MAX_RUN:
        return [(text, 1)]
    characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    edges = np.concatenate(([0], np.flatnonzero(characters[1:] != characters[:-1]) + 1, [len(text)]))
    pieces, done = [], 0
    for run in np.flatnonzero(np.diff(edges) > MAX_RUN):
        start, end = int(edges[run]), int(edges[run + 1])
        repeats = (end - start) // MAX_RUN
        if start > done:
            pieces.append((text[done:start], 1))
        pieces.append((text[start : start + MAX_RUN], repeats))
        done = start + repeats * MAX_RUN
    if done < len(text):
        pieces.append((text[done:], 1))
    return pieces


def byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where printable, else a character from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(rest)}
