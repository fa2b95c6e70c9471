"""The persistent attention cache: what is stored comes back bit for bit or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_cache_helpers import BODY, FILE, MODEL, SALT, files, get, open_cache, put, text
from hypothesis import given, settings
from hypothesis import strategies as st

from oliveira.errors import CorruptError
from oliveira.kernels import build
from oliveira.kernels.decoder import BlockPool, NativeDecoder
from oliveira.memory import chunk_file
from oliveira.memory.attention_cache import CHUNK, AttentionCache, tenant_salt
from oliveira.models.gpt import GPT, GPTConfig


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AttentionCache]:
    made = open_cache(tmp_path)
    yield made
    made.close()


# Round trip and restart ---------------------------------------------------------------------------------------------


def test_what_is_stored_comes_back_after_a_restart(tmp_path: Path) -> None:
    tokens = [*text(3), 1, 2, 3]  # the rest has no key
    cache = open_cache(tmp_path)
    keys = cache.keys(tokens, salt=SALT)
    assert len(keys) == 3 and cache.longest(keys) == 0
    for index in range(3):
        put(cache, tokens, index)
    for _ in range(2):
        assert cache.longest(keys) == 3 and cache.longest([*keys, b"x" * 32]) == 3 and cache.longest(keys[:2]) == 2
        assert all(get(cache, tokens, index) for index in range(3))
        cache.close()
        cache = open_cache(tmp_path)
    assert cache.stats() == {
        "hits": 0, "misses": 0, "bad": 0, "stored": 0, "dropped": 0, "evicted": 0, "bytes": 3 * FILE, "chunks": 3,
    }  # fmt: skip
    put(cache, tokens, 1)
    assert cache.stats()["stored"] == 0  # there already
    cache.close()
    cache.close()
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files(tmp_path))
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_a_file_that_somebody_removed_is_a_miss(cache: AttentionCache) -> None:
    tokens = text(1)
    put(cache, tokens, 0)
    shutil.rmtree(cache.folder)
    assert get(cache, tokens, 0) is None
    assert cache.stats()["bad"] == 0 and cache.stats()["misses"] == 1 and cache.stats()["chunks"] == 0


# Never wrong bytes --------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found(cache: AttentionCache) -> None:
    """Header, token ids, checksum, body: every bit of the file, one at a time."""
    tokens = text(2)
    put(cache, tokens, 0)
    put(cache, tokens, 1)
    path = cache._path(cache.keys(tokens, salt=SALT)[1])
    good, key, buffers = path.read_bytes(), cache.keys(tokens, salt=SALT)[1], [memoryview(bytearray(BODY))]
    assert len(good) == FILE
    with path.open("r+b", buffering=0) as file:
        for position in range(8 * FILE):
            byte = position // 8
            os.pwrite(file.fileno(), bytes([good[byte] ^ 1 << position % 8]), byte)
            assert not chunk_file.read(path, key, tokens[CHUNK:], buffers), position
            os.pwrite(file.fileno(), good[byte : byte + 1], byte)
            assert position % 8 or chunk_file.read(path, key, tokens[CHUNK:], buffers)
        os.pwrite(file.fileno(), bytes([good[-1] ^ 1]), FILE - 1)
    # And through the cache: deleted, counted, computed and stored anew.
    assert get(cache, tokens, 1) is None and not path.exists()
    assert cache.longest(cache.keys(tokens, salt=SALT)) == 1
    assert cache.stats()["bad"] == 1 and cache.stats()["chunks"] == 1
    put(cache, tokens, 1)
    assert get(cache, tokens, 1) and path.read_bytes() == good


@pytest.mark.parametrize("damage", ["shorter", "longer", "empty", "another's file", "not readable"])
def test_a_bad_file_is_deleted_and_never_served(
    cache: AttentionCache, damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens, other = text(1), text(1, seed=1)
    put(cache, tokens, 0)
    put(cache, other, 0)
    path, another = (cache._path(cache.keys(t, salt=SALT)[0]) for t in (tokens, other))
    match damage:
        case "shorter":
            path.write_bytes(path.read_bytes()[:-1])
        case "longer":
            path.write_bytes(path.read_bytes() + b"\0")
        case "empty":
            path.write_bytes(b"")
        case "another's file":
            path.write_bytes(another.read_bytes())
        case "not readable":

            def preadv(*_: object) -> int:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            monkeypatch.setattr(os, "preadv", preadv)
    assert get(cache, tokens, 0) is None
    monkeypatch.undo()
    assert not path.exists() and cache.stats()["bad"] == 1
    assert ("Input/output error" in capsys.readouterr().err) == (damage == "not readable")
    assert get(cache, other, 0)


def test_other_tokens_than_those_stored_get_nothing(cache: AttentionCache) -> None:
    tokens = text(1)
    key = put(cache, tokens, 0)
    assert not cache.load(key, [*tokens[:-1], tokens[-1] ^ 1], [memoryview(bytearray(BODY))])


def test_a_short_read_is_continued(cache: AttentionCache, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = text(1)
    put(cache, tokens, 0)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [memoryview(views[0])[:5]], at))
    assert get(cache, tokens, 0)


# Keys ---------------------------------------------------------------------------------------------------------------


def test_a_key_stands_for_all_that_the_numbers_depend_on(tmp_path: Path) -> None:
    tokens = text(3)
    forms: list[dict[str, Any]] = [
        {},
        {"model": {**MODEL, "weights": "w1"}},
        {"model": {**MODEL, "adapter": ""}},
        {"model": {"weights": "w0kernel", "": "avx2"}},  # untagged, unmeasured parts would collide with the first
        {"model": {"weightsw0": "", "kernel": "avx2"}},
        {"chunk_bytes": BODY + 1, "capacity_bytes": 10 * FILE},
        {"window": 4 * CHUNK},
        {"window": 5 * CHUNK},
        {"window": 4 * CHUNK, "sinks": 2 * CHUNK},
    ]
    seen: list[bytes] = []
    for number, form in enumerate(forms):
        cache = open_cache(tmp_path / str(number), **form)
        for salt in (SALT, b"t" * 32, b""):
            keys = cache.keys(tokens, salt=salt)
            assert keys == cache.keys(tokens[: 3 * CHUNK - 1] + tokens[-1:], salt=salt)
            seen += keys
            seen += cache.keys([tokens[0] ^ 1, *tokens[1:]], salt=salt)  # changes every key after it
            seen += cache.keys(tokens[CHUNK:], salt=salt)  # the same chunk elsewhere
        cache.close()
    assert len(set(seen)) == len(seen) == len(forms) * 3 * (3 + 3 + 2)


def test_the_order_of_the_model_fields_is_nothing(tmp_path: Path) -> None:
    keys = []
    for model in (MODEL, dict(reversed(MODEL.items()))):
        cache = open_cache(tmp_path, model=model)
        keys.append(cache.keys(text(1), salt=SALT))
        cache.close()
    assert keys[0] == keys[1]


def test_tenants_never_share(cache: AttentionCache, tmp_path: Path) -> None:
    tokens = text(3)
    ana, rui = tenant_salt(tmp_path, "ana"), tenant_salt(tmp_path, "rui")
    for index in range(3):
        put(cache, tokens, index, salt=ana)
    assert not set(cache.keys(tokens, salt=ana)) & set(cache.keys(tokens, salt=rui))
    assert cache.longest(cache.keys(tokens, salt=rui)) == 0 and get(cache, tokens, 0, salt=rui) is None
    assert cache.longest(cache.keys(tokens, salt=tenant_salt(tmp_path, "ana"))) == 3


def test_the_secret_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    homes = [tmp_path / "one", tmp_path / "two"]
    salts: list[bytes] = []
    threads = [threading.Thread(target=lambda: salts.append(tenant_salt(homes[0], "ana"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(salts) == 8 and len(set(salts)) == 1 and len(salts[0]) == 32
    assert tenant_salt(homes[1], "ana") != salts[0]
    (secret,) = files(homes[0])
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.write_bytes(b"short")
    with pytest.raises(CorruptError, match="5 bytes, not 32"):
        tenant_salt(homes[0], "ana")


# Windows ------------------------------------------------------------------------------------------------------------


def windows(cache: AttentionCache, n: int) -> list[int]:
    """Position by position: what the last token of chunk n may see, as whole chunks of a window of C tokens."""
    if cache.window is None:
        return list(range(n))
    sinks = cache.sinks // CHUNK
    allowed = [c for c in range(n + 1) if c < sinks]
    for c in range(n, -1, -1):  # its own chunk first, then back until C tokens are full
        if c >= sinks and (len(allowed) + 1) * CHUNK <= cache.window:
            allowed.append(c)
    return sorted(set(allowed) - {n})


@pytest.mark.parametrize(("window", "sinks"), [(None, 64), (128, 64), (64, 0), (256, 0), (256, 64), (512, 192)])
def test_needed_is_the_window(tmp_path: Path, window: int | None, sinks: int) -> None:
    cache = open_cache(tmp_path, window=window, sinks=sinks)
    for n in range(40):
        # A chunk among the sinks sees what is before it, even where the sinks are all the window has.
        expected = list(range(n)) if n < sinks // CHUNK else windows(cache, n)
        assert cache.needed(n) == expected, n
        assert window is None or (len(cache.needed(n)) + 1) * CHUNK <= window
    cache.close()


@settings(max_examples=60, deadline=None)
@given(
    window=st.sampled_from([None, 128, 256, 384]),
    sinks=st.sampled_from([0, 64]),
    there=st.lists(st.booleans(), max_size=12),
)
def test_longest_is_the_longest(window: int | None, sinks: int, there: list[bool]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(Path(folder), window=window, sinks=sinks)
        keys = cache.keys(text(len(there)), salt=SALT)
        cache._index.update((key, None) for key, known in zip(keys, there, strict=True) if known)
        expected = max(n for n in range(len(keys) + 1) if all(there[i] for i in cache.needed(n)))
        assert cache.longest(keys) == expected
        assert cache.longest(keys) == expected  # what it tidied away was of no use
        cache.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.just("go on"), st.just("restart"), st.integers(0, 30)), min_size=10, max_size=40))
def test_a_text_keeps_its_window_on_disk_and_no_more(steps: list[str | int]) -> None:
    """Grows by chunks, is looked up, loses a file now and then, restarts: at most C tokens, and it can go on."""
    window, tokens = 5 * CHUNK, text(40)
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(Path(folder), window=window)
        keys = cache.keys(tokens, salt=SALT)
        for length, step in enumerate(steps):
            if step == "restart":
                cache.close()
                cache = open_cache(Path(folder), window=window)
            elif isinstance(step, int) and cache._path(keys[step]).exists():
                cache._path(keys[step]).unlink()
                cache._path(keys[step]).write_bytes(b"torn")
            n = cache.longest(keys[:length])
            while not all(get(cache, tokens, i) for i in cache.needed(n)):
                n = cache.longest(keys[:length])
            for index in range(n, length + 1):  # computes what is missing, and one chunk more
                put(cache, tokens, index)
                assert len(files(Path(folder))) * CHUNK <= window
            assert cache.longest(keys[: length + 1]) == length + 1
            assert cache.longest(keys[:length]) == length  # the last answer can be asked for again
        cache.close()


# With a model -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_a_restored_prefix_gives_the_same_bits(tmp_path: Path, kind: str) -> None:
    """200 tokens read, three chunks stored; another pool, other blocks, a new cache: the logits do not differ."""
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=97, d_model=64, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=96, max_len=256)
    model = GPT(config).eval()
    tokens = torch.randint(0, 97, (200,)).tolist()

    def start() -> tuple[NativeDecoder, AttentionCache, list[int], list[memoryview]]:
        decoder = NativeDecoder(model, cache=kind, threads=1)
        pool = BlockPool(decoder, 20)
        pool.blocks.fill_(float("nan"))
        blocks = [memoryview(block.numpy()).cast("B") for block in pool.blocks]
        size = 4 * blocks[0].nbytes
        return decoder, open_cache(tmp_path, chunk_bytes=size, capacity_bytes=10 * size), pool.take(13), blocks

    decoder, cache, table, blocks = start()
    expected = [decoder.prefill(tokens, 0, table)]
    expected += [decoder.decode([7], [200 + step], [table]) for step in range(4)]
    keys = cache.keys(tokens, salt=SALT)
    for i, key in enumerate(keys):
        parts = [blocks[block] for block in table[4 * i : 4 * i + 4]]
        cache.store(key, i, tokens[i * CHUNK : (i + 1) * CHUNK], parts, keys[:i])
    cache.close()

    decoder, cache, table, blocks = start()
    table.reverse()
    n = cache.longest(keys)
    assert n == 3 and cache.needed(n) == [0, 1, 2]
    for i in cache.needed(n):
        parts = [blocks[block] for block in table[4 * i : 4 * i + 4]]
        assert cache.load(keys[i], tokens[i * CHUNK : (i + 1) * CHUNK], parts)
    found = [decoder.prefill(tokens[n * CHUNK :], n * CHUNK, table)]
    found += [decoder.decode([7], [200 + step], [table]) for step in range(4)]
    cache.close()
    assert all(bool(logits.isfinite().all()) for logits in found)
    assert torch.equal(torch.cat(found), torch.cat(expected))


def test_a_tail_is_found_by_how_a_text_goes_on(cache: AttentionCache) -> None:
    """The longest one that fits; never one of another beginning, tenant or length."""
    tokens = text(2)[: CHUNK + 40]
    keys = cache.keys(tokens, salt=SALT)
    assert len(keys) == 1
    for n in (5, 17, 40):
        rest = tokens[CHUNK : CHUNK + n]
        cache.store(cache.tail_key(keys, rest, salt=SALT), 1, rest, [memoryview(bytearray([n] * BODY))], keys)
    cache.flush()
    for asked, found in ((63, 40), (40, 40), (39, 17), (16, 5), (4, None)):
        rest = [*tokens[CHUNK:], *range(1000, 1030)][:asked]
        tail = cache.tail(keys, rest, salt=SALT)
        assert (tail and tail[1]) == found
        if tail:
            into = bytearray(BODY)
            assert cache.load(tail[0], rest[: tail[1]], [memoryview(into)]) and into == bytes([tail[1]] * BODY)
    assert cache.tail(keys, tokens[CHUNK:], salt=b"other") is None
    assert cache.tail([], tokens[CHUNK:], salt=SALT) is None
    assert cache.tail(keys, [7, *tokens[CHUNK:]], salt=SALT) is None


def test_what_is_dropped_is_gone_for_good(cache: AttentionCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk, waiting, and in the middle of being written."""
    tokens = text(3)
    keys = cache.keys(tokens, salt=SALT)
    put(cache, tokens, 0)
    writing, go_on = threading.Event(), threading.Event()
    write = chunk_file.write

    def slow(*given: Any) -> None:
        writing.set()
        assert go_on.wait(30)
        write(*given)

    monkeypatch.setattr(chunk_file, "write", slow)
    for index in (1, 2):
        data = memoryview(bytearray(cache.chunk_bytes))
        cache.store(keys[index], index, tokens[index * CHUNK : (index + 1) * CHUNK], [data], keys[:index])
    assert writing.wait(30)
    cache.drop(keys)
    go_on.set()
    cache.flush()
    assert files(cache.folder) == [] and cache.stats()["chunks"] == 0
    monkeypatch.setattr(chunk_file, "write", write)
    put(cache, tokens, 0)
    assert get(cache, tokens, 0) is not None


def test_a_chunk_is_written_again_where_it_is_asked_for(cache: AttentionCache) -> None:
    tokens = text(1)
    [key] = cache.keys(tokens, salt=SALT)
    for number, again, expected in ((1, False, 1), (2, False, 1), (3, True, 3)):
        cache.store(key, 0, tokens, [memoryview(bytearray([number]) * cache.chunk_bytes)], [], again=again)
        cache.flush()
        found = bytearray(cache.chunk_bytes)
        assert cache.load(key, tokens, [memoryview(found)]) and set(found) == {expected}
    assert cache.stats()["chunks"] == 1


def test_the_writer_survives_what_it_cannot_write(
    cache: AttentionCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = text(2)
    with monkeypatch.context() as patch:
        patch.setattr(chunk_file, "seal", lambda image: 1 / 0)
        put(cache, tokens, 0)
    put(cache, tokens, 1)
    assert get(cache, tokens, 0) is None and get(cache, tokens, 1) is not None
    assert "the attention cache fails" in capsys.readouterr().err
