"""A split as one long row of tokens in a memory map: document, end of text, document, end of text, …

<split>.bin           uint16, little endian; uint32 where the vocabulary needs it
<split>.index.json    sha256 and length of the row, bytes a token if not 2, UTF-8 bytes of the texts, documents
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oliveira.data.tokenizer import Tokenizer
from oliveira.errors import CorruptError
from oliveira.files import sha256_file

_TYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}  # by the bytes of a token
_BATCH = 1 << 20  # characters encoded together


@dataclass(frozen=True)
class TokenShard:
    tokens: np.memmap  # (n,)
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
            size, dtype = path.stat().st_size, _TYPES[index.get("width", 2)]
            if size != index["tokens"] * dtype.itemsize or sha256_file(path) != index["sha256"]:
                raise CorruptError(f"{path.name} is not the file that was written")
            starts = np.array(index["starts"], dtype=np.int64)
            return cls(np.memmap(path, dtype=dtype, mode="r", shape=(index["tokens"],)), index["bytes"], starts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptError(f"token shard {split} in {folder.name} cannot be read: {error}") from None


def write_shard(folder: Path, split: str, texts: Iterable[str], tokenizer: Tokenizer) -> tuple[int, int]:
    """Writes `texts` as a shard. Returns how many tokens (ends of text included) and bytes."""
    path, dtype = folder / f"{split}.bin", _dtype(tokenizer)
    starts: list[int] = []
    n_tokens = n_bytes = 0
    with path.open("wb") as file:
        for batch in _batches(texts):
            n_bytes += sum(len(text.encode()) for text in batch)
            for tokens in tokenizer.encode_many(batch):
                starts.append(n_tokens)
                n_tokens += len(tokens) + 1
                file.write(np.array([*tokens, tokenizer.end_of_text], dtype=dtype).tobytes())
    width = {"width": dtype.itemsize} if dtype.itemsize != 2 else {}
    index = {**width, "tokens": n_tokens, "bytes": n_bytes, "sha256": sha256_file(path), "starts": starts}
    (folder / f"{split}.index.json").write_text(json.dumps(index) + "\n", encoding="utf-8", newline="\n")
    return n_tokens, n_bytes


def token_row(texts: Iterable[str], tokenizer: Tokenizer) -> np.ndarray:
    """The row of a few texts in memory (n,)."""
    row = [token for text in texts for token in (*tokenizer.encode(text), tokenizer.end_of_text)]
    return np.array(row, dtype=_dtype(tokenizer))


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return _TYPES[2 if tokenizer.vocab_size <= 1 << 16 else 4]


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
