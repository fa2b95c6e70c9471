"""CTranslate2 in a process of its own: one JSON command a line on stdin, one answer a line.

    PYTHON -m benchmarks.q4_ctranslate_peer THREADS

PYTHON is an interpreter with `ctranslate2` (and its numpy); nothing of ours is imported. The network is GPT-2's form
from an .npz of the names that `oliveira.models.gpt` has.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec


class Peer:
    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.folder = tempfile.TemporaryDirectory()
        self.generator: Any = None
        self.names: list[str] = []

    def load(self, path: str, n_layers: int, n_heads: int, compute: str) -> str:
        """Writes a model of its own format and loads it; answers its version and what it computes with."""
        with np.load(path, allow_pickle=False) as file:
            state = dict(file)
        spec = transformer_spec.TransformerDecoderModelSpec.from_config(
            n_layers, n_heads, pre_norm=True, activation=common_spec.Activation.GELUTanh
        )
        decoder = spec.decoder
        decoder.scale_embeddings = False
        decoder.embeddings.weight = state["embedding.weight"]
        decoder.position_encodings.encodings = state["positions.table.weight"]
        decoder.projection.weight = state["head.weight"]

        def linear(target: Any, *names: str) -> None:
            target.weight = np.concatenate([state[f"{name}.weight"] for name in names])
            target.bias = np.concatenate([state[f"{name}.bias"] for name in names])

        def norm(target: Any, name: str) -> None:
            target.gamma, target.beta = state[f"{name}.weight"], state[f"{name}.bias"]

        norm(decoder.layer_norm, "norm")
        for i, layer in enumerate(decoder.layer):
            block = f"blocks.{i}"
            norm(layer.self_attention.layer_norm, f"{block}.attention_norm")
            linear(layer.self_attention.linear[0], *(f"{block}.attention.{n}" for n in ("query", "key", "value")))
            linear(layer.self_attention.linear[1], f"{block}.attention.output")
            norm(layer.ffn.layer_norm, f"{block}.feed_forward_norm")
            linear(layer.ffn.linear_0, f"{block}.feed_forward.up")
            linear(layer.ffn.linear_1, f"{block}.feed_forward.down")
        self.names = [f"t{i}" for i in range(len(state["embedding.weight"]))]
        spec.register_vocabulary(self.names)
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = self.names[0]
        spec.validate()
        spec.optimize(quantization=None if compute == "float32" else compute)
        place = Path(self.folder.name) / compute
        place.mkdir()
        spec.save(str(place))
        self.generator = ctranslate2.Generator(
            str(place), device="cpu", compute_type=compute, intra_threads=self.threads, inter_threads=1
        )
        return f"{ctranslate2.__version__} {self.generator.compute_type}"

    def greedy(self, tokens: list[int], n: int) -> list[int]:
        made, _ = self._generate(tokens, n)
        return made

    def decode(self, tokens: list[int], steps: int) -> float:
        """Seconds of `steps` greedy steps of one stream after `tokens`, reading the prompt not counted."""
        _, times = self._generate(tokens, steps + 1)
        return times[-1] - times[0]

    def _generate(self, tokens: list[int], n: int) -> tuple[list[int], list[float]]:
        times: list[float] = []

        def note(_: Any) -> bool:
            times.append(time.perf_counter())
            return False

        (result,) = self.generator.generate_batch(
            [[self.names[t] for t in tokens]],
            min_length=n,
            max_length=n,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=note,
        )
        return result.sequences_ids[0], times


def main() -> None:
    peer = Peer(int(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(peer, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main()
