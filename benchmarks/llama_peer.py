"""llama.cpp in a process of its own, driven through ctypes: one JSON command a line on stdin, one answer a line.

    python -m benchmarks.llama_peer FOLDER [THREADS]

FOLDER holds libllama and libggml built with every CPU variant (the npm package @node-llama-cpp/linux-x64 ships them:
`npm pack @node-llama-cpp/linux-x64`, unpack, package/bins/linux-x64). The best variant is loaded by llama.cpp itself.
The structures below are those of llama.h of the release named in that folder's metadata (v0.5.0); a default that does
not read back as documented stops the run.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from ctypes import POINTER, c_bool, c_float, c_int8, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any


def _struct(name: str, **fields: Any) -> Any:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


ModelParams = _struct(
    "ModelParams",
    **dict.fromkeys(("devices", "overrides"), c_void_p),
    **dict.fromkeys(("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu"), c_int32),
    **dict.fromkeys(("tensor_split", "progress", "progress_data", "kv_overrides"), c_void_p),
    **dict.fromkeys(("vocab_only", "check", "use_extra_bufts", "no_host", "no_alloc", "load_mtp"), c_bool),
)
ContextParams = _struct(
    "ContextParams",
    **dict.fromkeys(("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs", "n_outputs_seq"), c_uint32),
    **dict.fromkeys(("n_threads", "n_threads_batch", "ctx_type", "rope", "pooling", "attention", "flash"), c_int32),
    **dict.fromkeys(("base", "scale", "ext", "attn", "fast", "slow"), c_float),
    yarn_orig_ctx=c_uint32,
    defrag=c_float,
    **dict.fromkeys(("cb_eval", "cb_data"), c_void_p),
    **dict.fromkeys(("type_k", "type_v"), c_int32),
    **dict.fromkeys(("abort", "abort_data"), c_void_p),
    **dict.fromkeys(("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified"), c_bool),
    samplers=c_void_p,
    n_samplers=c_size_t,
    other=c_void_p,
)
QuantiseParams = _struct(
    "QuantiseParams",
    **dict.fromkeys(("nthread", "ftype", "output_type", "embedding_type"), c_int32),
    **dict.fromkeys(("requantize", "output", "only_copy", "pure", "keep_split", "dry_run"), c_bool),
    **dict.fromkeys(("imatrix", "kv", "tt", "prune"), c_void_p),
    max_buf_size=c_size_t,
)
Batch = _struct(
    "Batch",
    n_tokens=c_int32,
    token=POINTER(c_int32),
    embd=c_void_p,
    pos=POINTER(c_int32),
    n_seq_id=POINTER(c_int32),
    seq_id=POINTER(POINTER(c_int32)),
    logits=POINTER(c_int8),
)
InitParams = _struct("InitParams", mem_size=c_size_t, mem_buffer=c_void_p, no_alloc=c_bool)
ThreadpoolParams = _struct(
    "ThreadpoolParams",
    cpumask=c_bool * 512,
    n_threads=c_int32,
    priority=c_int32,
    poll=c_uint32,
    strict=c_bool,
    paused=c_bool,
)
_REPACK = "_Z35ggml_backend_cpu_repack_buffer_typev"
FTYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q4_K_S": 14, "Q4_K_M": 15}


class Llama:
    def __init__(self, folder: Path, threads: int) -> None:
        self.threads = threads
        for name in ("libggml-base*", "libggml.*", "libllama.*"):
            lib = ctypes.CDLL(str(next(folder.glob(name))), mode=ctypes.RTLD_GLOBAL)
            if name.startswith("libggml."):
                lib.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
                lib.ggml_backend_load_all_from_path(str(folder).encode())
        self.lib = lib
        for name, result, arguments in (
            ("model_default_params", ModelParams, []),
            ("context_default_params", ContextParams, []),
            ("model_quantize_default_params", QuantiseParams, []),
            ("model_quantize", c_uint32, [ctypes.c_char_p, ctypes.c_char_p, POINTER(QuantiseParams)]),
            ("model_load_from_file", c_void_p, [ctypes.c_char_p, ModelParams]),
            ("init_from_model", c_void_p, [c_void_p, ContextParams]),
            ("batch_init", Batch, [c_int32, c_int32, c_int32]),
            ("decode", c_int32, [c_void_p, Batch]),
            ("get_logits_ith", POINTER(c_float), [c_void_p, c_int32]),
            ("get_memory", c_void_p, [c_void_p]),
            ("memory_clear", None, [c_void_p, c_bool]),
            ("memory_seq_rm", c_bool, [c_void_p, c_int32, c_int32, c_int32]),
            ("state_seq_save_file", c_size_t, [c_void_p, ctypes.c_char_p, c_int32, POINTER(c_int32), c_size_t]),
            (
                "state_seq_load_file",
                c_size_t,
                [c_void_p, ctypes.c_char_p, c_int32, POINTER(c_int32), c_size_t, POINTER(c_size_t)],
            ),
            ("free", None, [c_void_p]),
            ("model_free", None, [c_void_p]),
            ("print_system_info", ctypes.c_char_p, []),
            ("log_set", None, [c_void_p, c_void_p]),
        ):
            function = getattr(lib, f"llama_{name}")
            function.restype, function.argtypes = result, arguments
        self._quiet = ctypes.CFUNCTYPE(None, c_int32, ctypes.c_char_p, c_void_p)(lambda *_: None)
        lib.llama_log_set(ctypes.cast(self._quiet, c_void_p), None)
        lib.llama_backend_init()
        self._threads_of_its_own(folder)
        self.batch = lib.llama_batch_init(2048, 0, 1)
        self.model = self.context = None
        if lib.llama_context_default_params().type_k != 1 or not lib.llama_model_default_params().use_extra_bufts:
            raise SystemExit("llama.h of another release: the structures of benchmarks/llama_peer.py do not fit")

    def _threads_of_its_own(self, folder: Path) -> None:
        """A pool that outlives a call, as llama-bench has it; paused between commands, so that it does not spin."""
        maps = Path("/proc/self/maps").read_text().split()
        self.cpu = ctypes.CDLL(next(word for word in maps if "libggml-cpu-" in word and word.startswith(str(folder))))
        self.base = ctypes.CDLL(str(next(folder.glob("libggml-base*"))))
        for lib, name, result, arguments in (
            (self.base, "ggml_threadpool_params_default", ThreadpoolParams, [c_int32]),
            (self.cpu, "ggml_threadpool_new", c_void_p, [c_void_p]),
            (self.cpu, "ggml_threadpool_pause", None, [c_void_p]),
            (self.cpu, "ggml_threadpool_resume", None, [c_void_p]),
            (self.cpu, "ggml_backend_cpu_init", c_void_p, []),
            (self.cpu, "ggml_backend_cpu_set_n_threads", None, [c_void_p, c_int32]),
            (self.cpu, "ggml_backend_cpu_set_threadpool", None, [c_void_p, c_void_p]),
            (self.cpu, _REPACK, c_void_p, []),
            (self.base, "ggml_init", c_void_p, [InitParams]),
            (self.base, "ggml_new_tensor_2d", c_void_p, [c_void_p, c_int32, c_int64, c_int64]),
            (self.base, "ggml_mul_mat", c_void_p, [c_void_p, c_void_p, c_void_p]),
            (self.base, "ggml_new_graph", c_void_p, [c_void_p]),
            (self.base, "ggml_build_forward_expand", None, [c_void_p, c_void_p]),
            (self.base, "ggml_backend_alloc_ctx_tensors_from_buft", c_void_p, [c_void_p, c_void_p]),
            (self.base, "ggml_backend_alloc_ctx_tensors", c_void_p, [c_void_p, c_void_p]),
            (self.base, "ggml_backend_tensor_set", None, [c_void_p, c_void_p, c_size_t, c_size_t]),
            (self.base, "ggml_quantize_chunk", c_size_t, [c_int32, c_void_p, c_void_p, *[c_int64] * 3, c_void_p]),
            (self.base, "ggml_backend_graph_compute", c_int32, [c_void_p, c_void_p]),
        ):
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        params = self.base.ggml_threadpool_params_default(self.threads)
        self.pool = self.cpu.ggml_threadpool_new(ctypes.byref(params))
        self.cpu.ggml_threadpool_pause(self.pool)
        self.lib.llama_attach_threadpool.argtypes = [c_void_p, c_void_p, c_void_p]
        self.graphs: dict[str, Any] = {}

    def gemv(self, type: int, d_in: int, d_out: int, rows: int, times: int) -> float:
        """Seconds of one product of `rows` rows with weights of a ggml type, repacked as llama.cpp does."""
        key = f"{type} {d_in} {d_out} {rows} {times}"
        if key not in self.graphs:
            self.graphs[key] = self._graph(type, d_in, d_out, rows, times)
        backend, graph = self.graphs[key]
        started = time.perf_counter()
        self.base.ggml_backend_graph_compute(backend, graph)
        return (time.perf_counter() - started) / times

    def _graph(self, type: int, d_in: int, d_out: int, rows: int, times: int) -> tuple[Any, Any]:
        base = self.base
        weights, rest = (base.ggml_init(InitParams(1 << 22, None, True)) for _ in range(2))
        backend = self.cpu.ggml_backend_cpu_init()
        self.cpu.ggml_backend_cpu_set_n_threads(backend, self.threads)
        self.cpu.ggml_backend_cpu_set_threadpool(backend, self.pool)
        w = base.ggml_new_tensor_2d(weights, type, d_in, d_out)
        base.ggml_backend_alloc_ctx_tensors_from_buft(weights, getattr(self.cpu, _REPACK)())
        x = base.ggml_new_tensor_2d(rest, 0, d_in, rows)
        graph = base.ggml_new_graph(rest)
        for _ in range(times):
            base.ggml_build_forward_expand(graph, base.ggml_mul_mat(rest, w, x))
        base.ggml_backend_alloc_ctx_tensors(rest, backend)
        n = d_in * max(d_out, rows)
        values = (c_float * n)(*([0.5, -1.0, 2.0, 0.25, -3.0] * (n // 5 + 1))[:n])
        stored = ctypes.create_string_buffer(4 * d_in * d_out)
        size = base.ggml_quantize_chunk(type, values, stored, 0, d_out, d_in, None)
        base.ggml_backend_tensor_set(w, stored, 0, size)
        base.ggml_backend_tensor_set(x, values, 0, 4 * d_in * rows)
        return backend, graph

    def quantise(self, source: str, target: str, to: str) -> int:
        params = self.lib.llama_model_quantize_default_params()
        params.ftype, params.requantize, params.nthread = FTYPES[to], True, self.threads
        if self.lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
            raise SystemExit(f"{source} could not be quantised")
        return Path(target).stat().st_size

    def load(self, path: str, streams: int, n_ctx: int) -> str:
        if self.context:
            self.lib.llama_free(self.context)
            self.lib.llama_model_free(self.model)
        self.model = self.lib.llama_model_load_from_file(path.encode(), self.lib.llama_model_default_params())
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = n_ctx * streams, streams, 2048, 512
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified, params.no_perf = False, True
        self.context = self.lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"{path} could not be loaded")
        self.lib.llama_attach_threadpool(self.context, self.pool, self.pool)
        return self.lib.llama_print_system_info().decode()

    def _run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """(token, position, stream, logits?) each."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, stream, logits) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, logits
            batch.seq_id[i][0] = stream
        if self.lib.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")
        self.lib.llama_get_logits_ith(self.context, -1)

    def prefill(self, tokens: list[int], stream: int) -> float:
        """Seconds."""
        self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.context), stream, -1, -1)
        rows = [(token, i, stream, i == len(tokens) - 1) for i, token in enumerate(tokens)]
        started = time.perf_counter()
        self._run(rows)
        return time.perf_counter() - started

    def decode(self, position: int, steps: int, streams: int) -> float:
        """Seconds of `steps` steps of one token for each stream, all at `position` and after it, then taken back."""
        memory = self.lib.llama_get_memory(self.context)
        started = time.perf_counter()
        for i in range(steps):
            self._run([(7 + i, position + i, stream, True) for stream in range(streams)])
        taken = time.perf_counter() - started
        for stream in range(streams):
            self.lib.llama_memory_seq_rm(memory, stream, position, -1)
        return taken

    def save(self, path: str, tokens: list[int]) -> int:
        """Reads all tokens into stream 0 and writes its state, as a slot is saved. Returns its bytes."""
        self.prefill(tokens, 0)
        ids = (c_int32 * len(tokens))(*tokens)
        return self.lib.llama_state_seq_save_file(self.context, path.encode(), 0, ids, len(tokens))

    def restore(self, path: str, token: int) -> float:
        """Seconds from an empty stream to the logits after the saved tokens and one more."""
        self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.context), 0, -1, -1)
        ids, n = (c_int32 * 4096)(), c_size_t()
        started = time.perf_counter()
        if not self.lib.llama_state_seq_load_file(self.context, path.encode(), 0, ids, 4096, ctypes.byref(n)):
            raise SystemExit(f"{path} could not be restored")
        self._run([(token, n.value, 0, True)])
        return time.perf_counter() - started

    def last_logits(self, vocab_size: int) -> list[float]:
        return self.lib.llama_get_logits_ith(self.context, -1)[:vocab_size]

    def logits(self, tokens: list[int], vocab_size: int) -> list[float]:
        self.prefill(tokens, 0)
        return self.lib.llama_get_logits_ith(self.context, -1)[:vocab_size]


def main() -> None:
    llama = Llama(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    for line in sys.stdin:
        command = json.loads(line)
        llama.cpu.ggml_threadpool_resume(llama.pool)
        answer = getattr(llama, command.pop("do"))(**command)
        llama.cpu.ggml_threadpool_pause(llama.pool)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
