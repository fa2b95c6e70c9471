"""Keys and values of text read before, found again by content: they survive restarts and `kill -9`.

    cache = AttentionCache(folder, model={"weights": …, "kernel": …}, chunk_bytes=…, capacity_bytes=1 << 30)
    keys = cache.keys(prompt, salt=tenant_salt(home, "ana"))   one for every whole chunk of 64 tokens
    n = cache.longest(keys)                                    chunks that need not be computed
    cache.load(keys[i], prompt[64 * i : 64 * (i + 1)], …)      for i in cache.needed(n); False: compute from there on
    cache.store(key, i, tokens, buffers, keys[:i])             when the model has filled chunk i
    cache.tail(keys[:n], prompt[64 * n :], salt=…)             (key, tokens) of a chunk that is not whole, if one fits

One file a chunk, named by its key: SHA-256 over tagged, length-prefixed fields (format, model, window, sinks, tenant's
salt, key of the chunk before, token ids). So a key stands for the whole text up to the chunk's end, read by this very
model, for this tenant. Before use the token ids are compared and the checksum is verified: a file that differs in one
bit is deleted and computed anew, never served.

The files are the only truth; the index is a scan of their names at the start, in order of their times. A file is
written under a temporary name and renamed, so `kill -9` leaves no half file under a real name. Nothing is synced: a
cache may lose its last files to a power cut, and a torn one is found by its checksum.

Capacity: the files, the unfinished one included, never hold more than `capacity_bytes`; what was used longest ago
goes before the new is written. A use counts for a text's last chunk first, so that beginnings, without which the rest
is worthless, stay longest. A chunk that would push out its own beginning is not stored.

Ring and sinks (StreamingLLM, Xiao et al. 2023, arXiv:2309.17453): with a `window` of C tokens, those of chunk c attend
to the first `sinks` tokens and to the chunks from lo(c) on,

    lo(c) = max(sinks / 64, c + 1 - (C - sinks) / 64),

at most C tokens. A text of any length then needs C tokens on disk, and what chunk c no longer attends to goes when c
is stored. Cost: one read of memory for the checksum, one copy from the page cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from oliveira.errors import UserError
from oliveira.memory import chunk_file
from oliveira.memory.chunk_file import CHUNK
from oliveira.memory.tenant import tenant_salt

__all__ = ["CHUNK", "AttentionCache", "CacheBusyError", "tenant_salt"]

_VERSION = b"1"  # of the key
_QUEUE_BYTES = 64 << 20  # copies that wait for the disk
_TEMPORARY = "unfinished.tmp"  # one name is enough: one thread writes
_FOLDER = re.compile(r"[0-9a-f]{16}(\.\d+\.old)?")
_NAME = re.compile(r"[0-9a-f]{64}")


class CacheBusyError(UserError):
    """Another process holds the folder: it lets go when it ends."""


class _Job(NamedTuple):
    key: bytes
    image: bytearray
    path: list[bytes]  # the chunks it attends to, first to last
    outdated: list[bytes]  # the text's chunks that it does not attend to


class AttentionCache:
    """Owned by one process; `keys`, `longest`, `load` and `store` are called by one thread, a second one writes."""

    def __init__(
        self,
        folder: Path,
        *,
        model: Mapping[str, str],
        chunk_bytes: int,
        capacity_bytes: int,
        window: int | None = None,
        sinks: int = CHUNK,
    ) -> None:
        """`model`: everything the numbers depend on (digests of weights and tokenizer, adapter, formats, kernel path,
        position base, …). `chunk_bytes`: keys and values of 64 tokens. `window`, `sinks`: tokens, multiples of 64.

        Files go to a sub-folder of `folder` that belongs to this model; those of other models are deleted unless a
        process holds them. Raises `UserError` for a number that cannot be, and if a process holds this model's.
        A folder that cannot be written is no error: it is said once, and the cache stays empty.
        """
        self.file_bytes = chunk_file.HEAD + chunk_bytes
        if chunk_bytes < 1:
            raise UserError(f"chunk_bytes = {chunk_bytes}: give the size of the keys and values of {CHUNK} tokens.")
        if capacity_bytes < self.file_bytes:
            raise UserError(
                f"capacity_bytes = {capacity_bytes} does not hold one chunk of {CHUNK} tokens: this model needs "
                f"{self.file_bytes} bytes for each. Give more, or serve without the cache."
            )
        if sinks < 0 or sinks % CHUNK:
            raise UserError(f"sinks = {sinks}: give a multiple of {CHUNK} tokens.")
        if window is not None and (window <= sinks or window % CHUNK):
            raise UserError(f"window = {window}: give a multiple of {CHUNK} tokens, more than sinks = {sinks}.")
        self.chunk_bytes, self.window, self.sinks = chunk_bytes, window, sinks
        self.capacity = capacity_bytes // self.file_bytes  # files
        fields = [(name.encode(), value.encode()) for name, value in sorted(model.items())]
        self._digest = hashlib.sha256(
            _tagged(
                (b"version", _VERSION),
                (b"model", _tagged(*fields)),
                (b"chunk", b"%d %d" % (CHUNK, chunk_bytes)),
                (b"window", b"none" if window is None else b"%d" % window),
                (b"sinks", b"%d" % sinks),
            )
        )
        self.folder = folder / self._digest.hexdigest()[:16]
        self._base = str(self.folder)
        self._index: OrderedDict[bytes, None] = OrderedDict()  # least recently used first
        self._stuck = 0  # files that cannot be deleted: they count, but are not served
        self._time = 0  # of the last use, ns
        self._counts = dict.fromkeys(("hits", "misses", "bad", "stored", "dropped", "evicted"), 0)
        self._complained = False
        self._work = threading.Condition()  # guards everything above and below
        self._jobs: deque[_Job] = deque()
        self._waiting: set[bytes] = set()  # keys of jobs, the one being written included
        self._unwanted: set[bytes] = set()  # dropped while it was being written
        self._spare: list[bytearray] = []  # images to use again: fresh memory costs more than the copy
        self._closed = False
        self._lock = self._open()
        self._writer = threading.Thread(target=self._write_all, name="attention-cache", daemon=True)
        self._writer.start()

    # Keys and windows -------------------------------------------------------------------------------------------

    def keys(self, tokens: Sequence[int], *, salt: bytes) -> list[bytes]:
        """One key (32 bytes) for every whole chunk of `tokens`; the rest of the tokens has none."""
        start = self._digest.copy()
        start.update(_tagged((b"salt", salt)))
        keys: list[bytes] = []
        parent = b""
        for first in range(0, len(tokens) - CHUNK + 1, CHUNK):
            digest = start.copy()
            ids = chunk_file.pack_ids(tokens[first : first + CHUNK])
            digest.update(_tagged((b"parent", parent), (b"tokens", ids)))
            keys.append(parent := digest.digest())
        return keys

    def tail_key(self, keys: Sequence[bytes], tokens: Sequence[int], *, salt: bytes) -> bytes:
        """The key of fewer than 64 `tokens` that follow the chunks with `keys`: the end of a prompt or of an answer."""
        if not 0 < len(tokens) < CHUNK:
            raise UserError(f"{len(tokens)} tokens are no tail: give 1 … {CHUNK - 1}.")
        digest = self._digest.copy()
        parent, ids = keys[-1] if keys else b"", chunk_file.pack_ids(tokens)
        digest.update(_tagged((b"salt", salt), (b"parent", parent), (b"tail", ids)))
        return digest.digest()

    def tail(self, keys: Sequence[bytes], tokens: Sequence[int], *, salt: bytes) -> tuple[bytes, int] | None:
        """The longest known tail that `tokens` begin with: its key and number of tokens. Counts as a use."""
        for n in range(min(len(tokens), CHUNK - 1), 0, -1):
            key = self.tail_key(keys, tokens[:n], salt=salt)
            with self._work:
                known = key in self._index
            if known:
                self._use([key])
                return key, n
        return None

    def needed(self, n: int) -> list[int]:
        """Which of the first `n` chunks the tokens of chunk `n` attend to."""
        sinks = self.sinks // CHUNK
        return list(range(n)) if self.window is None else [*range(min(sinks, n)), *range(self._low(n), n)]

    def _low(self, n: int) -> int:
        """The first chunk after the sinks that chunk `n` attends to."""
        if self.window is None:
            return 0
        return max(self.sinks // CHUNK, n + 1 - (self.window - self.sinks) // CHUNK)

    # Reading ----------------------------------------------------------------------------------------------------

    def longest(self, keys: Sequence[bytes]) -> int:
        """The largest n ≤ len(keys) such that every chunk of needed(n) is there; 0: nothing. Counts as a use of them.

        A model needs one token to go on from: leave out the key of a chunk that ends the prompt.
        """
        with self._work:
            there = [key in self._index for key in keys]
            if self.window is None:
                n = there.index(False) if False in there else len(there)
            else:
                n = next(n for n in range(len(keys), -1, -1) if all(there[i] for i in self.needed(n)))
            self._counts["misses"] += len(keys) - n
        if self.window is not None:
            # What comes after n will be computed anew: it would stand beside the new ring, more than C tokens.
            for key, known in zip(keys[n:], there[n:], strict=True):
                if known:
                    self._evict(key)
        self._use([keys[i] for i in self.needed(n)])
        return n

    def load(self, key: bytes, tokens: Sequence[int], buffers: Sequence[memoryview]) -> bool:
        """Keys and values of one chunk straight into `buffers` (bytes, chunk_bytes together). True: verified.

        False: absent or bad; a bad file is deleted and counted, and `buffers` hold anything.
        """
        self._check(tokens, buffers)
        with self._work:
            if key not in self._index:
                self._counts["misses"] += 1
                return False
        found = "bad"
        try:
            if chunk_file.read(self._name(key), key, tokens, buffers):
                found = "hits"
        except FileNotFoundError:  # evicted a moment ago, or somebody tidied the folder
            found = "misses"
        except OSError as error:
            self._complain(error)
        if found != "hits":
            self._ban(key)
        with self._work:
            self._counts[found] += 1
        return found == "hits"

    def _check(self, tokens: Sequence[int], buffers: Sequence[memoryview]) -> None:
        size = sum(buffer.nbytes for buffer in buffers)
        if not 0 < len(tokens) <= CHUNK or size != self.chunk_bytes or any(buffer.format != "B" for buffer in buffers):
            raise UserError(
                f"{len(tokens)} tokens and {size} bytes: a chunk is 1 … {CHUNK} tokens and {self.chunk_bytes} bytes, "
                'in memoryviews of bytes (.cast("B")).'
            )

    # Writing ----------------------------------------------------------------------------------------------------

    def store(
        self,
        key: bytes,
        index: int,
        tokens: Sequence[int],
        buffers: Sequence[memoryview],
        parents: Sequence[bytes],
        *,
        again: bool = False,
    ) -> None:
        """Copies chunk `index` of a text now, writes it soon. `parents`: keys of the chunks before it.

        There already: counts as a use, and is written `again` if that is asked for. More than 64 MiB waiting for the
        disk: dropped and counted.
        """
        self._check(tokens, buffers)
        if index != len(parents):
            raise UserError(f"index = {index}, but {len(parents)} parents: give the keys of all chunks before it.")
        path = [parents[i] for i in self.needed(index)]
        with self._work:
            known, waiting = key in self._index and not again, key in self._waiting
            full = len(self._jobs) * self.file_bytes >= max(_QUEUE_BYTES, 2 * self.file_bytes)
            if not known and not waiting and (full or self._closed or self._lock is None):
                self._counts["dropped"] += 1
                return
            image = self._spare.pop() if self._spare else bytearray(self.file_bytes)
        if known:
            self._use([*path, key])
        if known or waiting:
            return
        chunk_file.fill(image, key, tokens, buffers)
        outdated = list(parents[self.sinks // CHUNK : self._low(index)]) if self.window is not None else []
        with self._work:
            self._waiting.add(key)
            self._jobs.append(_Job(key, image, path, outdated))
            self._work.notify_all()

    def drop(self, keys: Sequence[bytes]) -> None:
        """Chunks that are not to be found again: their files go, and what of them still waits is not written."""
        with self._work:
            wanted = set(keys)
            gone = {job.key for job in self._jobs if job.key in wanted}
            self._jobs = deque(job for job in self._jobs if job.key not in gone)
            self._waiting -= gone
            self._unwanted |= wanted & self._waiting  # the one that is being written
            known = [key for key in wanted if key in self._index]
            self._work.notify_all()
        for key in known:
            self._ban(key)

    def _write_all(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            try:
                stored = self._write(job)
            except Exception as error:  # the thread must live: the next chunk may be written
                stored = False
                self._complain(OSError(None, str(error)))
            if job.key in self._unwanted:
                self._ban(job.key)
            with self._work:
                self._unwanted.discard(job.key)
                self._counts["stored" if stored else "dropped"] += 1
                self._waiting.discard(job.key)
                if len(self._spare) < 2:
                    self._spare.append(job.image)
                self._work.notify_all()

    def _write(self, job: _Job) -> bool:
        """Makes room, then writes. False: it does not fit, or the disk refuses (said once)."""
        for key in job.outdated:
            if key in self._index:
                self._evict(key)
        if not self._make_room(1, keep=set(job.path)):
            return False
        chunk_file.seal(job.image)
        temporary = self.folder / _TEMPORARY
        try:
            chunk_file.write(job.image, temporary, self._path(job.key))
        except OSError as error:
            self._complain(error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            return False
        with self._work:
            self._index[job.key] = None
        self._use([*job.path, job.key])
        return True

    def _make_room(self, files: int, *, keep: Iterable[bytes] = ()) -> bool:
        """Deletes what was used longest ago until there is room; False if that is one of `keep`, or cannot be."""
        while True:
            with self._work:
                if len(self._index) + self._stuck + files <= self.capacity:
                    return True
                oldest = next(iter(self._index), None)
            if oldest is None or oldest in keep or not self._evict(oldest):
                return False

    def _delete(self, key: bytes) -> bool:
        """First the file, then its entry: the bytes on disk are never more than the index says. False: it stays."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            self._complain(error)
            return False
        with self._work:
            self._index.pop(key, None)
        return True

    def _ban(self, key: bytes) -> None:
        """Never served again; a file that cannot be deleted takes its room."""
        if not self._delete(key):
            with self._work:
                if key in self._index:
                    del self._index[key]
                    self._stuck += 1

    def _evict(self, key: bytes) -> bool:
        done = self._delete(key)
        with self._work:
            self._counts["evicted"] += done
        return done

    def _use(self, path: Sequence[bytes]) -> None:
        """Last to first, so that the beginning is the newest: in the index, and in the files' times for a restart."""
        for key in reversed(path):
            with self._work:
                if key not in self._index:
                    continue
                self._index.move_to_end(key)
                self._time = max(time.time_ns(), self._time + 1)
                now = self._time
            with contextlib.suppress(OSError):  # only the order after a restart hangs on it
                os.utime(self._name(key), ns=(now, now))

    # Beginning and end ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Waits until everything stored so far is written or dropped."""
        with self._work:
            self._work.wait_for(lambda: not self._waiting)

    def close(self) -> None:
        """Writes what waits and lets go of the folder. May be called twice."""
        with self._work:
            self._closed = True
            self._work.notify_all()
        self._writer.join()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def stats(self) -> dict[str, int]:
        """Since the start: `hits` chunks loaded · `misses` asked for and absent · `bad` deleted instead of served ·
        `stored` · `dropped` not stored (queue, room, disk) · `evicted`. Now: `bytes` and `chunks` on disk."""
        with self._work:
            chunks = len(self._index)
            return {**self._counts, "bytes": (chunks + self._stuck) * self.file_bytes, "chunks": chunks}

    def _path(self, key: bytes) -> Path:
        return Path(self._name(key))

    def _name(self, key: bytes) -> str:
        """As a string: building a `Path` for each chunk is a tenth of a restore."""
        name = key.hex()
        return f"{self._base}/{name[:2]}/{name}"

    def _open(self) -> int | None:
        """The lock on this model's folder, its files indexed; None if the folder cannot be had."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = _hold(self.folder, patience=0.2)
        except OSError as error:
            self._complain(error)
            return None
        if lock is None:
            raise CacheBusyError(
                f"another process uses the attention cache in {self.folder}. Stop it, or choose another folder."
            )
        try:
            self._scan()
        except OSError as error:
            self._complain(error)
            os.close(lock)
            self._index.clear()
            return None
        self._make_room(0)
        self._remove_other_models()
        return lock

    def _scan(self) -> None:
        """Index by time of last use; what a killed writer left is swept, what cannot be a chunk is deleted."""
        (self.folder / _TEMPORARY).unlink(missing_ok=True)
        found: list[tuple[int, bytes]] = []
        for path in self.folder.glob("??/*"):
            status = path.stat()
            if _NAME.fullmatch(path.name) and path.name.startswith(path.parent.name):
                if status.st_size == self.file_bytes:
                    found.append((status.st_mtime_ns, bytes.fromhex(path.name)))
                    continue
                self._counts["bad"] += 1
            path.unlink()
        found.sort()
        self._index.update((key, None) for _, key in found)
        self._time = found[-1][0] if found else 0

    def _remove_other_models(self) -> None:
        for other in self.folder.parent.iterdir():
            if other == self.folder or not _FOLDER.fullmatch(other.name):
                continue
            with contextlib.suppress(OSError):  # another process tidies too, or it cannot be deleted: both may stay
                held = _hold(other)
                if held is None:
                    continue
                try:
                    # Renamed first: a process that starts now with that model gets a folder of its own.
                    aside = other.with_name(f"{other.name[:16]}.{os.getpid()}.old")
                    shutil.rmtree(other.rename(aside))
                finally:
                    os.close(held)

    def _complain(self, error: OSError) -> None:
        """Once: serving goes on without what could not be read or written."""
        if not self._complained:
            self._complained = True
            what = f"the attention cache fails at {error.filename or self.folder}: {error.strerror}"
            with contextlib.suppress(OSError):  # stderr may be on the disk that is full
                print(f"oliveira: {what}. Serving goes on; free some space or mend the folder.", file=sys.stderr)


def _tagged(*fields: tuple[bytes, bytes]) -> bytes:
    """Names and values, each after its length: no two lists of fields give the same bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for field in fields for part in field)


def _hold(folder: Path, *, patience: float | None = None) -> int | None:
    """A lock on `folder`, as a descriptor that keeps it; None if another process has it. It ends with the process.

    `patience`: the folder is made if it is not there, and tried for so many seconds.
    """
    end = time.monotonic() + (patience or 0.0)
    while True:
        if patience is not None:
            folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        except (BlockingIOError, FileNotFoundError):  # the second: moved aside by a process that tidies
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        if time.monotonic() >= end:
            return None
        time.sleep(0.02)
