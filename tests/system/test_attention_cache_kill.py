"""200 × `kill -9` of a process that stores chunks: no half file under a real name, never more than the capacity."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import xxhash

from oliveira.memory import chunk_file
from oliveira.memory.attention_cache import CHUNK, AttentionCache

KILLS = 200
BODY = 2 << 20  # long enough to be hit in the middle
FILES = 12  # of the 24 chunks below: something is always evicted
TEXTS, CHUNKS = 8, 3
SALT = b"s" * 32


def open_cache(folder: Path) -> AttentionCache:
    size = FILES * (chunk_file.HEAD + BODY)
    return AttentionCache(folder, model={"weights": "w"}, chunk_bytes=BODY, capacity_bytes=size)


def tokens_of(text: int) -> list[int]:
    return list(range(1000 * text, 1000 * text + CHUNKS * CHUNK))


def bodies() -> Callable[[bytes], memoryview]:
    """Another part of the same random bytes for each key: costs the writing process nothing."""
    numbers = memoryview(random.Random(0).randbytes(BODY + (1 << 16)))
    return lambda key: numbers[(start := int.from_bytes(key[:2])) : start + BODY]


def store_for_ever(folder: Path, seed: int) -> None:
    """What the killed process does. No torch: it has to start 200 times."""
    cache, chance, body = open_cache(folder), random.Random(seed), bodies()
    print("ready", flush=True)
    for number in itertools.count():
        tokens, index = tokens_of(chance.randrange(TEXTS)), chance.randrange(CHUNKS)
        keys = cache.keys(tokens, salt=SALT)
        cache.longest(keys)
        ids = tokens[index * CHUNK : (index + 1) * CHUNK]
        cache.store(keys[index], index, ids, [body(keys[index])], keys[:index])
        if number % 8 == 7:  # the writer never rests long
            cache.flush()


def test_kills_in_the_middle_of_writes(tmp_path: Path) -> None:
    chance, half, seen, body = random.Random(0), 0, 0, bodies()
    command = [sys.executable, "-S", str(Path(__file__)), str(tmp_path)]
    expected: dict[bytes, tuple[list[int], bytes]] = {}
    cache = open_cache(tmp_path)
    folder = cache.folder
    for text in range(TEXTS):
        tokens = tokens_of(text)
        for index, key in enumerate(cache.keys(tokens, salt=SALT)):
            expected[key] = (tokens[index * CHUNK : (index + 1) * CHUNK], xxhash.xxh3_128_digest(body(key)))
    cache.close()
    for number in range(KILLS):
        with subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, env={**os.environ, **PATH}) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            try:
                process.wait(chance.uniform(0.0, 0.03))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        # As the killed process left it.
        left = [path for path in folder.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in left) <= FILES * (chunk_file.HEAD + BODY)
        half += any(path.suffix == ".tmp" for path in left)
        # The next start.
        cache = open_cache(tmp_path)
        found = {bytes.fromhex(path.name): path for path in folder.rglob("*") if path.is_file()}
        assert set(found) <= set(expected) and len(found) == cache.stats()["chunks"]
        buffer = bytearray(BODY)
        for key in found:
            ids, digest = expected[key]
            assert cache.load(key, ids, [memoryview(buffer)])
            assert xxhash.xxh3_128_digest(buffer) == digest
        seen += len(found)
        assert cache.stats()["bad"] == 0
        cache.close()
    assert half >= 10 and seen >= KILLS, (half, seen)  # the kills hit writes, and there was something to verify


PATH = {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[2]), str(Path(xxhash.__file__).parents[1])))}

if __name__ == "__main__":
    store_for_ever(Path(sys.argv[1]), int(sys.argv[2]))
