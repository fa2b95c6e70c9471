"""One chunk of an attention cache as a file: token ids, their keys and values, and a checksum over all of it.

    magic 8 · key 32 · body size 8 · token ids 64 × 8 · checksum 16 · body          (little-endian)

A chunk that is not whole has -1 for the missing ids.

Everything before the checksum follows from what the reader asks for, so it is compared byte for byte; the checksum
(xxh3, 128 bits: about 25 GB/s on one core) covers that part and the body. It finds accidents; that nobody *makes* a
file for another tenant rests on the key, a SHA-256 with the tenant's secret in it, and on the folder's permissions.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import xxhash

CHUNK = 64  # tokens of a chunk
_MAGIC = b"olvattn1"  # the last character is the format's version
_PREFIX = struct.Struct("<8s32sQ")
_IDS = struct.Struct(f"<{CHUNK}q")
_CHECKSUM = 16
HEAD = _PREFIX.size + _IDS.size + _CHECKSUM  # bytes before the body


def pack_ids(tokens: Sequence[int]) -> bytes:
    """The ids of one chunk as bytes."""
    return _IDS.pack(*tokens, *[-1] * (CHUNK - len(tokens)))


def _known(key: bytes, tokens: Sequence[int], size: int) -> bytes:
    return _PREFIX.pack(_MAGIC, key, size) + pack_ids(tokens)


def fill(image: bytearray, key: bytes, tokens: Sequence[int], buffers: Sequence[memoryview]) -> None:
    """Copies a chunk into `image` (HEAD + body bytes); the checksum is still missing: see `seal`."""
    start = HEAD - _CHECKSUM
    image[:start] = _known(key, tokens, len(image) - HEAD)
    start = HEAD
    with memoryview(image) as view:
        for buffer in buffers:
            view[start : start + buffer.nbytes] = buffer
            start += buffer.nbytes


def seal(image: bytearray) -> None:
    """Puts the checksum in its place."""
    with memoryview(image) as view:
        checksum = xxhash.xxh3_128(view[: HEAD - _CHECKSUM])
        checksum.update(view[HEAD:])
    image[HEAD - _CHECKSUM : HEAD] = checksum.digest()


def write(image: bytearray, temporary: Path, path: Path) -> None:
    """`path` appears whole or not at all when the process is killed. No fsync: after a power loss it may be torn, which
    `read` finds. Raises `OSError`; then `temporary` may be left."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with memoryview(image) as view:
            done = 0
            while done < len(view):
                done += os.write(descriptor, view[done:])
    finally:
        os.close(descriptor)
    try:
        temporary.replace(path)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary.replace(path)


def read(path: str | Path, key: bytes, tokens: Sequence[int], buffers: Sequence[memoryview]) -> bool:
    """Reads the body straight into `buffers` (bytes). False if anything differs from what was written for this key and
    these tokens: the buffers then hold anything. Raises `OSError`."""
    size = sum(buffer.nbytes for buffer in buffers)
    head = bytearray(HEAD)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size != HEAD + size or not _read_into(descriptor, [memoryview(head), *buffers]):
            return False
    finally:
        os.close(descriptor)
    known = head[: HEAD - _CHECKSUM]
    if known != _known(key, tokens, size):
        return False
    checksum = xxhash.xxh3_128(known)
    for buffer in buffers:
        checksum.update(buffer)
    return bool(checksum.digest() == head[HEAD - _CHECKSUM :])


def _read_into(descriptor: int, views: list[memoryview]) -> bool:
    """Fills all views from the start of the file; False if it ends too early."""
    position = 0
    while views:
        count = os.preadv(descriptor, views, position)
        if not count:
            return False
        position += count
        while views and count >= views[0].nbytes:
            count -= views.pop(0).nbytes
        if count:
            views[0] = views[0][count:]
    return True
