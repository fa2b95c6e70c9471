"""A split as one long row of tokens in a memory map: document, end of text, document, end of text, …

<split>.bin           uint16, little endian
<split>.index.json    sha256 and length of the row, UTF-8 bytes of the texts, where each document starts
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError
from oliveira.files import sha256_file

DTYPE = np.dtype("<u2")
_BATCH = 1 << 20  # characters encoded together


@dataclass(frozen=True)
class TokenShard:
    tokens: np.memmap  # (n,) uint16
    n_bytes: int  # UTF-8 bytes of the texts; the ends of text are not counted
    starts: np.ndarray  # (documents,) int64: index of each document's first token

    @property
    def n_documents(self) -> int:
        return len(self.starts)

    @classmethod
    def open(cls, folder: Path, split: str) -> TokenShard:
        """Raises `CorruptError` when the files do not belong together."""
        path = folder / f"{split}.bin"
        try:
            index = json.loads((folder / f"{split}.index.json").read_bytes())
            size = path.stat().st_size
            if size != index["tokens"] * DTYPE.itemsize or sha256_file(path) != index["sha256"]:
                raise CorruptError(f"{path.name} is not the file that was written")
            starts = np.array(index["starts"], dtype=np.int64)
            return cls(np.memmap(path, dtype=DTYPE, mode="r", shape=(index["tokens"],)), index["bytes"], starts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"token shard {split} in {folder.name} cannot be read: {error}") from None


def write_shard(folder: Path, split: str, texts: Iterable[str], tokenizer: Tokenizer) -> tuple[int, int]:
    """Writes `texts` as a shard. Returns how many tokens (ends of text included) and bytes."""
    path = folder / f"{split}.bin"
    starts: list[int] = []
    n_tokens = n_bytes = 0
    with path.open("wb") as file:
        for batch in _batches(texts):
            n_bytes += sum(len(text.encode()) for text in batch)
            for tokens in tokenizer.encode_many(batch):
                starts.append(n_tokens)
                n_tokens += len(tokens) + 1
                file.write(np.array([*tokens, tokenizer.end_of_text], dtype=DTYPE).tobytes())
    index = {"tokens": n_tokens, "bytes": n_bytes, "sha256": sha256_file(path), "starts": starts}
    (folder / f"{split}.index.json").write_text(json.dumps(index) + "\n", encoding="utf-8", newline="\n")
    return n_tokens, n_bytes


def token_row(texts: Iterable[str], tokenizer: Tokenizer) -> np.ndarray:
    """The row of a few texts in memory (n,): uint16, or uint32 where the vocabulary needs it."""
    row = [token for text in texts for token in (*tokenizer.encode(text), tokenizer.end_of_text)]
    return np.array(row, dtype=np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
