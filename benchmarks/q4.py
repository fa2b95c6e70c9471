"""4-bit products, decoding and prefill beside llama.cpp (its 4-bit formats, repacked kernels), CTranslate2, torch, bnb.

    python -m benchmarks.q4 --fetch [--ctranslate2 PYTHON] [--only gemv,10M,125M,smollm2,loss] [--rounds 7]

Prints a table and writes results/bench-q4.json: `ratios` row → peer's seconds over ours, above 1 = ours is faster;
the two take turns (A B A B), the median counts. Rows in bytes and nats: the peer's over ours as well; bandwidth: the
share of it. `goals` has the same rows. llama.cpp runs in a process of its own
(benchmarks/llama_peer.py); --llama names the folder of its libraries, --fetch takes them from npm. CTranslate2 runs in
--ctranslate2, an interpreter that has it. What cannot be had is named, and its rows are left out. Rows say in their
name what ours computes with: "fp32 inputs", or "int8 inputs" (rows rounded to 8 bits before a product, as llama.cpp
always does). Keys and values are fp16 on both sides; the output matrix has 6.25 bits (Q6_K: 6.56) or 4.5.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import smollm2
from benchmarks.q4_loss import loss
from benchmarks.table import origin
from benchmarks.timing import Pair
from oliveira.compression.model import quantise_model
from oliveira.convert.gguf import read_gguf
from oliveira.errors import OliveiraError
from oliveira.files import write_json_atomic
from oliveira.kernels.build import cache_folder, library, unavailable
from oliveira.kernels.decoder import BlockPool
from oliveira.kernels.linear import Kind, PackedMatrix
from oliveira.kernels.options import Options, native
from oliveira.models.gpt import GPT, GPTConfig
from oliveira.processors import processors

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "bench-q4.json"
SUBJECTS = ("10M", "125M", "smollm2")
PARTS = "gemv,10M,125M,smollm2,loss"
FORM: dict[str, Any] = dict(norm="layernorm", feed_forward="gelu", positions="learned", bias=True, max_len=1280)
SHAPES: dict[str, dict[str, Any]] = {
    "10M": dict(vocab_size=8192, d_model=384, n_layers=6, n_heads=6, n_kv_heads=6, d_ff=1536),
    "125M": dict(vocab_size=50257, d_model=768, n_layers=12, n_heads=12, n_kv_heads=12, d_ff=3072),
}
THEIRS = {"10M": ["Q4_0"], "125M": ["Q4_0", "Q4_K_M"], "smollm2": ["Q4_0", "Q4_1"]}
# weights, head, inputs
OURS = [
    ("int4", "int6", "fp32"),
    ("nf4", "int6", "fp32"),
    ("int4", "int6", "int8"),
    ("nf4", "int6", "int8"),
    ("int4", "int4", "int8"),
]
GGML = {"Q4_0": 2, "Q4_K": 12}
CONTEXT, STEPS, PREFILL = 128, 32, 1024
PROMPT = [5] * PREFILL


class Peer:
    """Another program in a process of its own: llama.cpp, CTranslate2."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        )

    def __call__(self, do: str, **arguments: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended at {do}.")  # type: ignore[arg-type]
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def llama(folder: Path, threads: int) -> Peer:
    return Peer([sys.executable, "-m", "benchmarks.llama_peer", str(folder), str(threads)])


def fetch() -> Path:
    """The prebuilt libraries of llama.cpp with all CPU variants, from the npm registry."""
    target = cache_folder() / "llama.cpp"
    if not target.exists():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["npm", "pack", "--silent", "@node-llama-cpp/linux-x64"], cwd=folder, check=True)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                archive.extractall(folder, filter="data")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(Path(folder) / "package", target)
    return next(target.rglob("libggml-base*")).parent


def write_gguf(model: GPT, path: Path) -> None:
    """A GPT-2 form model as a file of llama.cpp, fp32, without a vocabulary."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(0)
    state = model.state_dict()

    def put(name: str, *sources: str) -> None:
        writer.add_tensor(name, torch.cat([state[s] for s in sources]).numpy().astype(np.float32))

    put("token_embd.weight", "embedding.weight")
    put("position_embd.weight", "positions.table.weight")
    for part in ("weight", "bias"):
        put(f"output_norm.{part}", f"norm.{part}")
        for i in range(config.n_layers):
            ours, theirs = f"blocks.{i}", f"blk.{i}"
            put(f"{theirs}.attn_norm.{part}", f"{ours}.attention_norm.{part}")
            put(f"{theirs}.ffn_norm.{part}", f"{ours}.feed_forward_norm.{part}")
            put(f"{theirs}.attn_qkv.{part}", *(f"{ours}.attention.{n}.{part}" for n in ("query", "key", "value")))
            put(f"{theirs}.attn_output.{part}", f"{ours}.attention.output.{part}")
            put(f"{theirs}.ffn_up.{part}", f"{ours}.feed_forward.up.{part}")
            put(f"{theirs}.ffn_down.{part}", f"{ours}.feed_forward.down.{part}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Table:
    """Prints rows as they come and keeps the result file complete after each.

    `only`: a part is measured, and the other rows of the file are kept; commit and date are then the last run's.
    """

    def __init__(self, command: str, threads: int, output: Path = RESULT, *, only: bool = False) -> None:
        old: dict[str, Any] = json.loads(output.read_bytes()) if only and output.exists() else {}
        self.rows: dict[str, Any] = old.get("rows", {})
        self.facts: dict[str, Any] = old.get("facts", {})
        self.origin, self.output = origin(command, threads), output

    def add(self, name: str, pair: Pair, peer: str, goal: float, **more: Any) -> None:
        self.rows[name] = {"against": peer, "goal": goal, **asdict(pair), **more}
        print(
            f"{name:<62} ours {pair.ours * 1e3:9.3f} ms  {peer:<16} {pair.peer * 1e3:9.3f} ms  ratio {pair.ratio:5.2f} "
            f"({pair.low:.2f}–{pair.high:.2f})  goal {goal}  {more or ''}",
            flush=True,
        )
        self.write()

    def figure(self, name: str, ours: float, theirs: float, peer: str, goal: float) -> None:
        """Of something that should be small and is not a time: bytes, nats."""
        ratio = theirs / ours
        self.rows[name] = {"against": peer, "goal": goal, "ours": ours, "peer": theirs, "ratio": ratio}
        print(
            f"{name:<62} ours {ours:12.6g}     {peer:<16} {theirs:12.6g}     ratio {ratio:5.2f}  goal {goal}",
            flush=True,
        )
        self.write()

    def skip(self, peer: str, why: str) -> None:
        print(f"{peer} cannot be had ({why}): its rows are left out.", flush=True)

    def fact(self, name: str, value: Any) -> None:
        self.facts[name] = value
        print(f"{name}: {value}", flush=True)
        self.write()

    def write(self) -> None:
        write_json_atomic(
            self.output,
            {
                **self.origin,
                "ratios": {name: round(row["ratio"], 3) for name, row in self.rows.items()},
                "goals": {name: row["goal"] for name, row in self.rows.items()},
                "facts": self.facts,
                "rows": self.rows,
            },
        )


def bandwidth(threads: int) -> float:
    """GB/s of reading 512 MiB, best of six."""
    data = torch.empty(1 << 27)
    library().oliveira_huge_pages(data.data_ptr(), data.nbytes)
    data.fill_(1)
    out = torch.empty(data.numel() // 64)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        library().oliveira_read(data.data_ptr(), out.data_ptr(), out.numel(), threads)
        seconds.append(time.perf_counter() - started)
    return data.nbytes / min(seconds) / 1e9


def gemv(table: Table, peer: Peer | None, threads: int, rounds: int) -> None:
    times = 20
    for d_in, d_out in ((768, 3072), (4096, 4096)):
        linear = nn.Linear(d_in, d_out, bias=False)
        x, y = torch.randn(1, d_in), torch.empty(1, d_out)

        def theirs(name: str, d_in: int = d_in, d_out: int = d_out) -> float:
            assert peer
            return float(peer("gemv", type=GGML[name], d_in=d_in, d_out=d_out, rows=1, times=times))

        best = min(GGML, key=lambda name: min(theirs(name) for _ in range(3))) if peer else ""

        for method in ("int4", "nf4"):
            matrix = PackedMatrix(Kind[method], d_out, d_in)
            matrix.put(linear)
            for inputs in (1, 0):

                def ours(matrix: PackedMatrix = matrix, x: Tensor = x, y: Tensor = y, inputs: int = inputs) -> float:
                    started = time.perf_counter()
                    for _ in range(times):
                        library().oliveira_linear(
                            ctypes.byref(matrix.struct), x.data_ptr(), y.data_ptr(), 1, inputs, threads
                        )
                    return (time.perf_counter() - started) / times

                name = f"GEMV {d_in}x{d_out}, {method}, {'int8' if inputs else 'fp32'} inputs"
                if peer:
                    table.add(name, reported(ours, partial(theirs, best), rounds), f"ggml {best}", 1.0)
                if not inputs:
                    plain = repeated(partial(F.linear, x, linear.weight), times)
                    table.add(f"{name} against torch", reported(ours, plain, rounds), "torch fp32", 1.0)
            if method == "nf4" and importlib.util.find_spec("bitsandbytes"):  # `ours` is the one with fp32 inputs
                slow = bitsandbytes_gemv(linear, x)
                table.add(f"GEMV {d_in}x{d_out}, nf4, fp32 inputs against bnb", reported(ours, slow, 3), "bnb NF4", 1.0)


def repeated(call: Callable[[], object], times: int) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(times):
                call()
        return (time.perf_counter() - started) / times

    return run


def bitsandbytes_gemv(linear: nn.Linear, x: Tensor) -> Callable[[], float]:
    from bitsandbytes import functional, matmul_4bit

    packed, state = functional.quantize_4bit(linear.weight.detach(), quant_type="nf4", compress_statistics=True)
    return repeated(lambda: matmul_4bit(x, packed.t(), quant_state=state), 2)


def reported(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> Pair:
    """`interleave` with the seconds that each side reports of itself: without the pipe to the other process."""
    kept: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for work, seconds in zip((ours, theirs), kept, strict=True):
            taken = work()
            if turn:
                seconds.append(taken)
    ratios = [b / a for a, b in zip(*kept, strict=True)]
    middle = statistics.median
    return Pair(middle(kept[0]), middle(kept[1]), middle(ratios), min(ratios), max(ratios))


def options_of(head: str, inputs: str) -> Options:
    """Of the decoder that is measured: what `oliveira compile` may choose for the server (serve.max_loss)."""
    return Options(head=head, cache="fp16", activations=inputs)  # type: ignore[arg-type]


class Ours:
    """One decoder with 16 streams of `CONTEXT` tokens each."""

    def __init__(self, model: GPT, method: str, head: str, inputs: str, threads: int) -> None:
        quantised = quantise_model(copy.deepcopy(model), method)
        assert isinstance(quantised, GPT)
        self.decoder = native(quantised, options_of(head, inputs), threads=threads)
        self.read_bytes = sum(matrix.nbytes for matrix in self.decoder._matrices)
        need = (CONTEXT + STEPS) // 16
        pool = BlockPool(self.decoder, 16 * need + PREFILL // 16)
        self.tables = [pool.take(need) for _ in range(16)]
        self.long = pool.take(PREFILL // 16)
        for table in self.tables:
            self.decoder.prefill([5] * CONTEXT, 0, table, wanted=0)

    def decode(self, streams: int) -> float:
        started = time.perf_counter()
        for i in range(STEPS):
            self.decoder.decode([7 + i] * streams, [CONTEXT + i] * streams, self.tables[:streams])
        return time.perf_counter() - started

    def prefill(self) -> float:
        started = time.perf_counter()
        for start in range(0, PREFILL, 256):
            self.decoder.prefill([5] * 256, start, self.long, wanted=int(start + 256 == PREFILL))
        return time.perf_counter() - started


class Work(NamedTuple):
    name: str
    streams: int  # of llama.cpp's context
    ours: Callable[[Ours], float]
    theirs: Callable[[Peer], float]
    tokens: int


WORKS = [
    Work("decode, one stream", 1, lambda o: o.decode(1), lambda p: theirs(p, 1), STEPS),
    Work("decode, 16 streams", 16, lambda o: o.decode(16), lambda p: theirs(p, 16), STEPS * 16),
    Work(f"prefill {PREFILL}", 1, lambda o: o.prefill(), lambda p: p("prefill", tokens=PROMPT, stream=0), PREFILL),
]


def theirs(peer: Peer, streams: int) -> float:
    return float(peer("decode", position=CONTEXT, steps=STEPS, streams=streams))


def whole(
    table: Table, subject: str, model: GPT, files: dict[str, Path], folder: Path | None, threads: int, rounds: int
) -> None:
    """One stream, sixteen streams, a prompt of 1,024 tokens, each against the fastest of llama.cpp's formats."""
    limit = bandwidth(threads)
    table.fact(f"{subject}: DRAM read GB/s", round(limit, 1))
    table.fact(f"{subject}: GGUF bytes", {name: path.stat().st_size for name, path in files.items()})
    with ExitStack() as stack:
        variants = [Ours(model, *options, threads) for options in OURS]
        for (method, head, inputs), ours in zip(OURS, variants, strict=True):
            size = ours.decoder.weight_bytes
            if inputs == "int8":  # the inputs change nothing here
                table.fact(f"{subject}: weight bytes, {method}, {head} head", size)
                if "Q4_0" in files:
                    file = files["Q4_0"].stat().st_size
                    table.figure(f"{subject} bytes of weights, {method}, {head} head", size, file, "GGUF Q4_0", 1.0)
            if subject != "10M":  # which lives in the third cache
                taken = statistics.median(ours.decode(1) for _ in range(rounds + 1)) / STEPS
                label = f"{subject} share of the bandwidth, {method}, {head} head, {inputs} inputs"
                table.figure(label, taken, ours.read_bytes / 1e9 / limit, "s to read it", 0.6)
        for work in WORKS if folder else []:
            assert folder
            peers = {}
            for name, path in files.items():
                peers[name] = peer = llama(folder, threads)
                stack.callback(peer.close)
                peer("load", path=str(path), streams=work.streams, n_ctx=PREFILL + 16)
                for stream in range(work.streams):
                    peer("prefill", tokens=[5] * CONTEXT, stream=stream)
            best = min(peers, key=lambda name: min(work.theirs(peers[name]) for _ in range(3)))
            for (method, head, inputs), ours in zip(OURS, variants, strict=True):
                pair = reported(partial(work.ours, ours), partial(work.theirs, peers[best]), rounds)
                more: dict[str, Any] = {
                    "tokens_per_second": round(work.tokens / pair.ours),
                    "peer_tokens_per_second": round(work.tokens / pair.peer),
                }
                label = f"{subject} {work.name}, {method}, {inputs} inputs" + (", int4 head" if head == "int4" else "")
                table.add(label, pair, f"llama.cpp {best}", 1.5, **more)
        eager = repeated(lambda: model(torch.full((1, PREFILL), 5)), 1)
        for options, ours in list(zip(OURS, variants, strict=True))[:4:2]:
            name = f"{subject} prefill {PREFILL}, int4, {options[2]} inputs against torch"
            table.add(name, reported(ours.prefill, eager, 3), "torch fp32", 1.1)


def ctranslate(table: Table, model: GPT, python: str, scratch: Path, threads: int, rounds: int) -> None:
    """One stream of the 10M shape beside CTranslate2's int8, whose step also chooses the token."""
    has = subprocess.run([python, "-c", "import ctranslate2"], capture_output=True, check=False).returncode == 0
    if not has:
        table.skip("CTranslate2", f"{python} cannot import ctranslate2; --ctranslate2 names another interpreter")
        return
    file = scratch / "weights.npz"
    np.savez(file, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})  # type: ignore[arg-type]
    peer = Peer([python, "-m", "benchmarks.q4_ctranslate_peer", str(threads)])
    shape = dict(n_layers=model.config.n_layers, n_heads=model.config.n_heads)
    table.fact("CTranslate2", peer("load", path=str(file), **shape, compute="int8"))
    theirs = partial(peer, "decode", tokens=[5] * CONTEXT, steps=STEPS)
    for method, head, inputs in OURS:
        ours = Ours(model, method, head, inputs, threads)
        name = f"10M decode, one stream, {method}, {head} head, {inputs} inputs against CTranslate2"
        table.add(name, reported(partial(ours.decode, 1), theirs, rounds), "CTranslate2 int8", 1.5)
    peer.close()


def subjects(
    table: Table, wanted: set[str], scratch: Path, peer: Peer | None
) -> Iterator[tuple[str, GPT, dict[str, Path], list[int]]]:
    """(name, our model, llama.cpp's files, tokens of text)."""
    for name in SUBJECTS:
        if name not in wanted and not (name == "smollm2" and "loss" in wanted):
            continue
        plain = scratch / f"{name}.gguf"
        tokens: list[int] = []
        with ExitStack() as stack:
            if name == "smollm2":
                try:
                    plain = stack.enter_context(smollm2.on_disk())
                except OliveiraError as error:
                    table.skip(smollm2.NAME, str(error))
                    continue
                model, tokenizer, _ = read_gguf(plain)
                tokens = tokenizer.encode(smollm2.pages())
            else:
                torch.manual_seed(0)
                model = GPT(GPTConfig(**FORM, **SHAPES[name])).eval()
                if peer:
                    write_gguf(model, plain)
            files = {}
            for to in THEIRS[name] if peer else []:
                assert peer
                files[to] = plain if to in plain.name else scratch / f"{name}-{to}.gguf"
                if files[to] != plain:
                    peer("quantise", source=str(plain), target=str(files[to]), to=to)
            yield name, model, files, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="folder of libllama and libggml")
    parser.add_argument("--fetch", action="store_true", help="take them from npm, once")
    parser.add_argument("--ctranslate2", default=sys.executable, help="an interpreter that has it")
    parser.add_argument("--only", default="", help=f"some of {PARTS}; the other rows are kept")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULT, help="where the result is written")
    parser.add_argument("--threads", type=int, default=processors())
    given = parser.parse_args()
    if reason := unavailable():
        raise SystemExit(reason)
    torch.set_num_threads(given.threads)
    wanted = set((given.only or PARTS).split(","))
    command = f"python -m benchmarks.q4 --fetch --rounds {given.rounds} --threads {given.threads}"
    command += f" --only {given.only}" if given.only else ""
    command += " --ctranslate2 PYTHON" if given.ctranslate2 != sys.executable else ""
    table = Table(command, given.threads, given.output, only=bool(given.only))
    folder = given.llama
    if folder is None and given.fetch:
        try:
            folder = fetch()
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            table.skip("llama.cpp", f"npm: {error}")
    elif folder is None:
        table.skip("llama.cpp", "give --llama FOLDER, or --fetch to take it from npm, 11 MB")
    peer = llama(folder, given.threads) if folder else None
    if "gemv" in wanted:
        gemv(table, peer, given.threads, given.rounds)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        for name, model, files, tokens in subjects(table, wanted, Path(scratch), peer):
            if name in wanted:
                whole(table, name, model, files, folder, given.threads, given.rounds)
            if name == "10M" and name in wanted:
                ctranslate(table, model, given.ctranslate2, Path(scratch), given.threads, given.rounds)
            if tokens and "loss" in wanted:
                loss(table, model, tokens, given.threads)
    if peer:
        peer.close()
    print(json.dumps({name: round(row["ratio"], 2) for name, row in table.rows.items()}))


if __name__ == "__main__":
    main()
