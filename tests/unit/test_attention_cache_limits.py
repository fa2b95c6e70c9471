"""The attention cache within its capacity, with a full disk, a slow one, a second owner."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from attention_cache_helpers import BODY, FILE, SALT, files, get, open_cache, put, text
from hypothesis import given, settings
from hypothesis import strategies as st

from oliveira.errors import UserError
from oliveira.memory.attention_cache import CHUNK, AttentionCache


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AttentionCache]:
    made = open_cache(tmp_path)
    yield made
    made.close()


# Capacity -----------------------------------------------------------------------------------------------------------


class Model:
    """The index as it should be: keys, least recently used first."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.order = capacity, list[bytes]()

    def use(self, path: Sequence[bytes]) -> None:
        for key in reversed(path):
            if key in self.order:
                self.order.remove(key)
                self.order.append(key)

    def longest(self, keys: Sequence[bytes]) -> int:
        n = 0
        while n < len(keys) and keys[n] in self.order:
            n += 1
        self.use(keys[:n])
        return n

    def store(self, path: Sequence[bytes]) -> None:
        if path[-1] not in self.order:
            if len(self.order) == self.capacity:
                if self.order[0] in path:
                    return
                self.order.pop(0)
            self.order.append(path[-1])
        self.use(path)


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 6),
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["store", "look"]), st.integers(0, 3), st.integers(0, 3)),
            st.tuples(st.just("restart"), st.just(0), st.just(0)),
        ),
        max_size=30,
    ),
)
def test_capacity_and_order(capacity: int, steps: list[tuple[str, int, int]]) -> None:
    """Against a list: what stays, in which order it goes, and never a byte too many; restarts change nothing."""
    texts = [text(4, seed=0)[:CHUNK] + text(3, seed=n % 2) + text(3, seed=n) for n in range(4)]  # shared beginnings
    model = Model(capacity)
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(Path(folder), capacity + 0.9)
        for what, number, index in steps:
            keys = cache.keys(texts[number], salt=SALT)
            if what == "store":
                put(cache, texts[number], index)
                model.store(keys[: index + 1])
            elif what == "look":
                assert cache.longest(keys) == model.longest(keys)
            else:
                cache.close()
                cache = open_cache(Path(folder), capacity + 0.9)
            assert list(cache._index) == model.order
            sizes = [path.stat().st_size for path in files(Path(folder))]
            assert sum(sizes) == cache.stats()["bytes"] == len(model.order) * FILE <= (capacity + 0.9) * FILE
        cache.close()


def test_room_is_made_before_the_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at while the unfinished file is whole and has no name yet: the moment when most is on disk."""
    cache = open_cache(tmp_path, 3)
    most = []

    def replace(*paths: Path) -> None:
        most.append(sum(path.stat().st_size for path in files(tmp_path)))
        return rename(*paths)

    rename = os.replace
    monkeypatch.setattr(os, "replace", replace)
    for seed in range(8):
        put(cache, text(1, seed), 0)
    cache.close()
    assert max(most) == 3 * FILE and cache.stats()["evicted"] == 5


def test_a_smaller_capacity_is_kept_to_from_the_start(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 9)
    tokens = text(6)
    for index in range(6):
        put(cache, tokens, index)
    cache.close()
    cache = open_cache(tmp_path, 2)
    assert len(files(tmp_path)) == 2 and cache.longest(cache.keys(tokens, salt=SALT)) == 2  # the beginning stays
    cache.close()


# What goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["open", "write", "replace"])
def test_a_full_disk_is_said_once(
    cache: AttentionCache, call: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cache, text(1), 0)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    for seed in (1, 2):
        put(cache, text(1, seed), 0)
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left on device" in said and "Serving goes on" in said
    assert cache.stats()["dropped"] == 2 and len(files(cache.folder)) == cache.stats()["chunks"] == 1
    put(cache, text(1, 1), 0)  # there is space again
    assert get(cache, text(1, 1), 0) and get(cache, text(1), 0)


@pytest.mark.parametrize("call", ["mkdir", "open", "scandir"])
def test_a_folder_that_cannot_be_had_leaves_the_cache_empty(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, call, refused)
    cache = open_cache(tmp_path / "new" / "folder")
    monkeypatch.undo()
    put(cache, text(1), 0)
    assert cache.longest(cache.keys(text(1), salt=SALT)) == 0 and get(cache, text(1), 0) is None
    assert cache.stats()["dropped"] == 1 and not files(tmp_path)
    assert capsys.readouterr().err.count("Read-only file system") == 1
    cache.close()


def test_files_that_cannot_be_deleted_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read-only from now on: what is there is served, what is bad is not, and nothing more is written."""
    cache = open_cache(tmp_path, 2)
    bad = put(cache, text(1, 1), 0)
    put(cache, text(1, 2), 0)
    cache._path(bad).write_bytes(bytes(FILE))

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", refused)
    put(cache, text(1, 3), 0)
    assert get(cache, text(1, 1), 0) is None and cache.longest([bad]) == 0
    assert get(cache, text(1, 2), 0)
    put(cache, text(1, 3), 0)
    assert cache.stats()["dropped"] == 2 and cache.stats()["bytes"] == 2 * FILE and len(files(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.undo()
    cache.close()


def test_a_full_queue_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer stands still: 64 MiB of copies wait, the rest is dropped and counted; the caller never waits."""
    size = 8 << 20
    cache = open_cache(tmp_path, chunk_bytes=size, capacity_bytes=1 << 30)
    go_on, real, written = threading.Event(), os.write, []

    def slow(descriptor: int, data: memoryview) -> int:
        go_on.wait()
        written.append(len(data))
        return real(descriptor, data[:1000]) if len(written) == 1 else real(descriptor, data)  # a short write, too

    monkeypatch.setattr(os, "write", slow)
    buffers = [memoryview(bytes(size))]
    texts = [text(1, seed) for seed in range(14)]
    for tokens in texts:
        key = cache.keys(tokens, salt=SALT)[0]
        cache.store(key, 0, tokens, buffers, [])
        cache.store(key, 0, tokens, buffers, [])  # waits already: neither twice nor dropped
    go_on.set()
    cache.flush()
    found = cache.stats()
    assert found["stored"] in (8, 9) and found["stored"] + found["dropped"] // 2 == 14  # a dropped one was tried twice
    assert all(path.stat().st_size == cache.file_bytes for path in files(tmp_path))
    cache.close()


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    put(cache, text(1), 0)
    with pytest.raises(UserError, match="another process uses the attention cache"):
        open_cache(tmp_path)
    other = open_cache(tmp_path, model={"weights": "w1"})  # the next engine of a hot swap
    assert get(cache, text(1), 0)
    cache.close()
    open_cache(tmp_path).close()
    other.close()


def test_folders_of_models_that_are_gone_are_deleted(tmp_path: Path) -> None:
    models = [{"weights": str(n)} for n in range(3)]
    caches = [open_cache(tmp_path, model=model) for model in models]
    for one in caches:
        put(one, text(1), 0)
    (tmp_path / "a person's notes").write_text("stay")
    (tmp_path / f"{'0' * 16}.77.old").mkdir()  # killed while tidying
    caches[0].close()
    caches[1].close()
    caches[1] = open_cache(tmp_path, model=models[1])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {caches[1].folder.name, caches[2].folder.name, "a person's notes"}
    assert all(get(one, text(1), 0) for one in caches[1:])
    for one in caches[1:]:
        one.close()


def test_what_is_no_chunk_is_swept(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    key = put(cache, text(1), 0)
    cache.close()
    path = cache._path(key)
    (cache.folder / "unfinished.tmp").write_bytes(b"half")
    (path.parent / ("f" * 64)).write_bytes(bytes(FILE))  # in the wrong fan-out folder
    (path.parent / f"{path.parent.name}{'0' * 62}").write_bytes(b"torn")
    cache = open_cache(tmp_path)
    assert files(tmp_path) == [path] and get(cache, text(1), 0) and cache.stats()["bad"] == 1
    cache.close()


def test_closed_means_closed(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.close()
    put(cache, text(1), 0)
    assert cache.stats()["dropped"] == 1 and not files(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_bytes": 0}, "chunk_bytes = 0"),
        ({"capacity_bytes": FILE - 1}, f"capacity_bytes = {FILE - 1} does not hold one chunk"),
        ({"sinks": 63}, "sinks = 63"),
        ({"sinks": -64}, "sinks = -64"),
        ({"window": 100}, "window = 100"),
        ({"window": 64}, "more than sinks = 64"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_cache(tmp_path, **options)
    assert not files(tmp_path)


def test_calls_that_cannot_be_are_refused(cache: AttentionCache) -> None:
    tokens, good = text(1), [memoryview(bytearray(BODY))]
    key = cache.keys(tokens, salt=SALT)[0]
    with pytest.raises(UserError, match="65 tokens and 48 bytes"):
        cache.load(key, [*tokens, 1], good)
    for tail in ([], tokens):
        with pytest.raises(UserError, match="no tail"):
            cache.tail_key([key], tail, salt=SALT)
    with pytest.raises(UserError, match="64 tokens and 47 bytes"):
        cache.store(key, 0, tokens, [good[0][1:]], [])
    with pytest.raises(UserError, match=r"cast\(.B.\)"):
        cache.load(key, tokens, [good[0].cast("f")])
    with pytest.raises(UserError, match="index = 2, but 1 parents"):
        cache.store(key, 2, tokens, good, [key])
