"""Small attention caches, texts, and chunks whose bytes follow from their key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from oliveira.memory import chunk_file
from oliveira.memory.attention_cache import CHUNK, AttentionCache

BODY = 48  # bytes of a chunk here
FILE = chunk_file.HEAD + BODY
MODEL = {"weights": "w0", "kernel": "avx2"}
SALT = b"s" * 32


def open_cache(folder: Path, files: float = 100, **options: Any) -> AttentionCache:
    return AttentionCache(
        folder, **{"model": MODEL, "chunk_bytes": BODY, "capacity_bytes": int(files * FILE), **options}
    )


def text(chunks: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 50_000, (chunks * CHUNK,), generator=torch.Generator().manual_seed(seed)).tolist()


def body(key: bytes, size: int = BODY) -> bytes:
    return (key * (size // len(key) + 1))[:size]


def put(cache: AttentionCache, tokens: Sequence[int], index: int, salt: bytes = SALT) -> bytes:
    keys = cache.keys(tokens, salt=salt)
    data = bytearray(body(keys[index], cache.chunk_bytes))
    parts = [memoryview(data)[:7], memoryview(data)[7:]]
    cache.store(keys[index], index, tokens[index * CHUNK : (index + 1) * CHUNK], parts, keys[:index])
    data[:] = bytes(len(data))  # the caller's memory is its own again
    cache.flush()
    return keys[index]


def get(cache: AttentionCache, tokens: Sequence[int], index: int, salt: bytes = SALT) -> bytes | None:
    """The chunk's bytes, read into two buffers; None if there are none. Anything but what was stored fails here."""
    one, two = bytearray(11), bytearray(cache.chunk_bytes - 11)
    key = cache.keys(tokens, salt=salt)[index]
    if not cache.load(key, tokens[index * CHUNK : (index + 1) * CHUNK], [memoryview(one), memoryview(two)]):
        return None
    assert bytes(one + two) == body(key, cache.chunk_bytes)
    return bytes(one + two)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
