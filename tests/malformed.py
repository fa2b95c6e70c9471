"""Weight files of bad make, and what reads them all in one bounded child: `python -m tests.malformed FOLDER`."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Case = Callable[[Path], Path]  # writes it below a folder of its own, returns what is brought in
ROOM = 1 << 30  # bytes of address space beyond what good files need
V, D, F = 8, 8, 8
TOKENS = ["<s>", "</s>", "a", "b", "ab", "Ġ", "c", "d"]
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def _value(value: Any) -> bytes:
    if isinstance(value, bytes):  # as it is
        return value
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<IQ", 10, value % 2**64)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


SETTINGS: dict[str, Any] = {
    "general.architecture": "llama", "llama.block_count": 1, "llama.context_length": 16, "llama.embedding_length": D,
    "llama.feed_forward_length": F, "llama.attention.head_count": 2, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1], "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 1,
}  # fmt: skip
TENSORS: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (V, D), "output_norm.weight": (D,), "blk.0.attn_norm.weight": (D,),
    "blk.0.ffn_norm.weight": (D,),
    **{f"blk.0.{n}.weight": (D, D) for n in
       ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")},
}  # fmt: skip


def gguf(
    *,
    settings: dict[str, Any] | None = None,
    tensors: dict[str, dict[str, Any]] | None = None,
    head: dict[str, Any] | None = None,
    more: bytes = b"",
    first: float = 0.5,
) -> bytes:
    """A file with some things changed: a setting (None: left out), what is said of a tensor, the head's numbers."""
    said = {name: value for name, value in {**SETTINGS, **(settings or {})}.items() if value is not None}
    kept = {name: shape for name, shape in TENSORS.items() if (tensors or {}).get(name) != {"gone": True}}
    numbers = {"magic": b"GGUF", "version": 3, "tensors": len(kept), "settings": len(said), **(head or {})}
    data = struct.pack("<4sIQQ", *(numbers[n] for n in ("magic", "version", "tensors", "settings")))
    data += b"".join(_text(name) + _value(value) for name, value in said.items()) + more
    place, body = 0, b""
    for name, shape in kept.items():
        told = {"name": name, "shape": shape, "type": 0, "place": place, **(tensors or {}).get(name, {})}
        sizes = tuple(reversed(told["shape"]))
        data += _text(told["name"]) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, told["type"], told["place"])
        count = 1
        for size in shape:
            count *= size
        values = struct.pack(f"<{count}f", *([first] + [0.5] * (count - 1)))
        body += values + b"\0" * (-len(values) % 32)
        place = len(body)
    return data + b"\0" * (-len(data) % 32) + body


def _gguf_cases() -> dict[str, bytes]:
    whole, nan = gguf(), float("nan")
    embed = "token_embd.weight"
    cases = {f"cut-{n}": whole[: len(whole) * n // 40] for n in range(40)}
    heads = [{"magic": b"GGML"}, {"version": 1}, {"version": 99}, {"version": 3 << 24}, {"tensors": 0},
             {"tensors": 2**63}, {"tensors": 12}, {"settings": 2**63}, {"settings": 3}, {"settings": 14}]  # fmt: skip
    cases |= {f"head-{n}": gguf(head=changed) for n, changed in enumerate(heads)}
    told = [{"shape": (V, 0)}, {"shape": (1, 1, 1, V, D)}, {"shape": (2**62, D)}, {"shape": (2**40, 2**40)},
            {"shape": ()}, {"shape": (V, D + 1)}, {"shape": (D * V,)}, {"type": 99}, {"type": 10}, {"type": 2},
            {"type": 8},
            {"place": 2**62}, {"place": 5}, {"place": 256}, {"place": 10**6}, {"name": "output_norm.weight"},
            {"name": "x"}, {"name": "x" * 300}, {"name": b"\xff"}, {"gone": True}]  # fmt: skip
    cases |= {f"tensor-{n}": gguf(tensors={embed: changed}) for n, changed in enumerate(told)}
    cases |= {f"number-{n}": gguf(first=value) for n, value in enumerate((nan, float("inf"), -float("inf")))}
    said: list[dict[str, Any]] = [
        {"general.architecture": "mamba"}, {"general.architecture": 3}, {"general.architecture": None},
        {"llama.vocab_size": 2**40}, {"llama.embedding_length": 2**31}, {"llama.embedding_length": 2**63},
        {"llama.block_count": 2**31}, {"llama.block_count": 0}, {"llama.block_count": "one"},
        {"llama.attention.head_count": 0}, {"llama.attention.head_count": 3}, {"llama.attention.head_count": 2**40},
        {"llama.attention.head_count_kv": 2**33}, {"llama.attention.head_count_kv": 3},
        {"llama.attention.key_length": 2**40}, {"llama.feed_forward_length": 2**45}, {"llama.context_length": 2**47},
        {"llama.context_length": 0}, {"llama.context_length": True}, {"llama.attention.layer_norm_rms_epsilon": nan},
        {"llama.attention.layer_norm_rms_epsilon": 0.0}, {"llama.rope.freq_base": nan}, {"llama.rope.freq_base": 0.0},
        {"llama.rope.scaling.type": "longrope"}, {"llama.rope.scaling.type": "yarn"}, {"llama.expert_count": 8},
        {"llama.what": 1}, {"general.alignment": 0}, {"general.alignment": 3}, {"general.alignment": 2**31},
        {"general.alignment": "x"}, {"tokenizer.ggml.model": "t5"}, {"tokenizer.ggml.model": ["gpt2"]},
        {"tokenizer.ggml.tokens": TOKENS[:7]}, {"tokenizer.ggml.tokens": [*TOKENS[:7], "a"]},
        {"tokenizer.ggml.tokens": "abc"}, {"tokenizer.ggml.token_type": [1]}, {"tokenizer.ggml.token_type": "x"},
        {"tokenizer.ggml.merges": ["a z"]}, {"tokenizer.ggml.merges": ["ab"]}, {"tokenizer.ggml.merges": None},
        {"tokenizer.ggml.eos_token_id": 2**40}, {"tokenizer.ggml.eos_token_id": None,
                                                 "tokenizer.ggml.token_type": [1] * 8},
        {"tokenizer.ggml.add_bos_token": True}, {"tokenizer.chat_template": LOOPS},
        {"tokenizer.chat_template": "{% include '/etc/passwd' %}"}, {"tokenizer.chat_template": 5},
        {"tokenizer.chat_template": "{{ 'a' * 10 ** 12 }}"}, {"general.license": 5},
        {"x": struct.pack("<IQ", 8, 2**62)}, {"x": struct.pack("<IIQ", 9, 5, 2**62)}, {"x": struct.pack("<I", 77)},
        {"x": struct.pack("<IIQ", 9, 9, 1)}, {"x": struct.pack("<IIQ", 9, 8, 2**50)}, {"x" * 300: 1},
    ]  # fmt: skip
    cases |= {f"setting-{n}": gguf(settings=changed) for n, changed in enumerate(said)}
    twice = _text("llama.block_count") + _value(1)
    cases["setting-twice"] = gguf(head={"settings": len(SETTINGS) + 1}, more=twice)
    return cases


# Folders ------------------------------------------------------------------------------------------


def safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(data) if length is None else length) + data + body


def _parts(weights: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


class Bomb:
    """What a pickle would run."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.marker),)


DEEP = b"[" * 100_000 + b"]" * 100_000


def _files(good: Path, marker: Path) -> dict[str, dict[str, Any]]:
    """Name → files of the folder that are otherwise: bytes, a target of a link (Path), None = gone."""
    weights, config = (good / "model.safetensors").read_bytes(), json.loads((good / "config.json").read_bytes())
    tokens = json.loads((good / "tokenizer.json").read_bytes())
    header, body = _parts(weights)
    name = "model.norm.weight"
    cases: dict[str, dict[str, Any]] = {}

    def weight(key: str, data: bytes) -> None:
        cases[f"weights-{key}"] = {"model.safetensors": data}

    for n in range(25):
        weight(f"cut-{n}", weights[: len(weights) * n // 25])
    for n, length in enumerate((0, 1, 2**31, 2**63, len(weights))):
        weight(f"length-{n}", safetensors(header, body, length))
    weight("deep", safetensors(DEEP, body))
    weight("list", safetensors([1], body))
    weight("more", weights + b"more")
    first, last = header[name]["data_offsets"]
    for n, changed in enumerate([
        {"data_offsets": [first, last + 8]}, {"data_offsets": [last, first]}, {"data_offsets": [-8, last]},
        {"data_offsets": [0, last - first]}, {"data_offsets": [2**62, 2**62 + last - first]}, {"dtype": "F7"},
        {"dtype": "I64"}, {"shape": [2**40]}, {"shape": [2**62, 2**62]}, {"shape": []}, {"shape": [-30]},
    ]):  # fmt: skip
        weight(f"said-{n}", safetensors({**header, name: {**header[name], **changed}}, body))
    for n, value in enumerate((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f")):
        weight(f"number-{n}", safetensors(header, body[:first] + value + body[first + 4 :]))

    def settings(file: str, key: str, data: Any) -> None:
        cases[f"{file}-{key}"] = {file: data if isinstance(data, bytes) else json.dumps(data).encode()}

    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        for key, data in (
            ("deep", DEEP),
            ("list", b"[1]"),
            ("cut", b'{"a": '),
            ("bytes", b"\xff\xfe"),
            ("nan", b'{"a": NaN}'),
            ("twice", b'{"a": 1, "a": 2}'),
            ("digits", b'{"a": ' + b"9" * 9999 + b"}"),
        ):
            if (file, key) != ("tokenizer.json", "twice"):
                settings(file, key, data)
    for n, changed in enumerate([
        {"vocab_size": 10**12}, {"vocab_size": -1}, {"vocab_size": "many"}, {"vocab_size": None},
        {"hidden_size": 10**9}, {"hidden_size": 0}, {"num_hidden_layers": 10**12}, {"num_hidden_layers": 0},
        {"num_attention_heads": 0},
        {"num_attention_heads": 10**9}, {"num_key_value_heads": 0}, {"num_key_value_heads": 2}, {"head_dim": 10**9},
        {"head_dim": 7}, {"intermediate_size": 10**12}, {"max_position_embeddings": 10**15},
        {"max_position_embeddings": -1}, {"model_type": "../llama"}, {"model_type": ["llama"]}, {"hidden_act": "x"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2}}, {"rope_parameters": "x"}, {"rms_norm_eps": "x"},
        {"what": 1}, {"use_mup": True}, {"quantization_config": {"bits": 4}}, {"eos_token_id": -1},
        {"eos_token_id": [10**9]}, {"eos_token_id": "x"},
    ]):  # fmt: skip
        settings("config.json", str(n), {**config, **changed})
    vocabulary = tokens["model"]["vocab"]
    for n, changed in enumerate([
        {"vocab": {**vocabulary, "new": 2**31}}, {"vocab": {**vocabulary, "new": -1}}, {"vocab": []}, {"merges": ["a"]},
        {"merges": [["qq", "zz"]]}, {"type": "WordPiece"}, {"dropout": 0.5}, {"unk_token": 5},
    ]):  # fmt: skip
        settings("tokenizer.json", str(n), {**tokens, "model": {**tokens["model"], **changed}})
    for key, value in (("decoder", None), ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(("},
                       "behavior": "Isolated", "invert": False}), ("added_tokens", 3), ("added_tokens", [{"id": 1}]),
                       ("post_processor", {"type": "TemplateProcessing"})):  # fmt: skip
        settings("tokenizer.json", f"{key}-{value is None}-{str(value)[:4]}", {**tokens, key: value})
    for n, template in enumerate((LOOPS, "{% include 'config.json' %}", "{{ 'a' * 10 ** 12 }}", "{% for %}", "silent")):
        cases[f"template-{n}"] = {"chat_template.jinja": template.encode()}
    settings("tokenizer_config.json", "template", {"chat_template": 5})
    settings("tokenizer_config.json", "eos", {"add_eos_token": True})
    bomb = pickle.dumps(Bomb(str(marker)))
    cases["pickle"] = {"model.safetensors": None, "pytorch_model.bin": bomb}
    weight("pickle", bomb)

    def index(key: str, place: Any, **more: Any) -> None:
        files = {"model.safetensors.index.json": json.dumps(place).encode(), "part.safetensors": weights, **more}
        cases[f"index-{key}"] = {"model.safetensors": None, **files}

    for n, target in enumerate(("../good/model.safetensors", str(good / "model.safetensors"), "a/b.safetensors", "",
                                ".", "..", "x\0.safetensors", "pytorch_model.bin", "gone.safetensors",
                                "x" * 300 + ".safetensors", "..\\model.safetensors")):  # fmt: skip
        index(str(n), {"weight_map": dict.fromkeys(header, target)}, **{"pytorch_model.bin": bomb})
    index("none", {})
    index("list", {"weight_map": ["part.safetensors"]})
    index("number", {"weight_map": {name: 3}})
    index("some", {"weight_map": {name: "part.safetensors"}})
    index("more", {"weight_map": {**dict.fromkeys(header, "part.safetensors"), "more": "part.safetensors"}})
    index("both", {"weight_map": dict.fromkeys(header, "part.safetensors") | {name: "two.safetensors"},
                   }, **{"two.safetensors": weights})  # fmt: skip
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        cases[f"link-{file}"] = {file: good / file}
        cases[f"zero-{file}"] = {file: Path("/dev/zero")}
        cases[f"nowhere-{file}"] = {file: Path("nowhere")}
        cases[f"folder-{file}"] = {file: "folder"}
        cases[f"gone-{file}"] = {file: None}
    return cases


def write_all(folder: Path, good: Path, marker: Path) -> dict[str, Path]:
    """Every case below `folder`; `good`: a Hugging Face folder that can be read."""
    places: dict[str, Path] = {}
    for name, data in _gguf_cases().items():
        places[f"gguf-{name}"] = folder / f"gguf-{name}.gguf"
        places[f"gguf-{name}"].write_bytes(data)
    for n, (name, files) in enumerate(_files(good, marker).items()):
        places[name] = folder / f"folder-{n}"
        shutil.copytree(good, places[name])
        for file, content in files.items():
            target = places[name] / file
            target.unlink(missing_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            elif isinstance(content, Path):
                target.symlink_to(content)
            elif content == "folder":
                target.mkdir()
    return places


def main(folder: Path) -> None:
    """Reads what stands in FOLDER/cases.json, the good ones first; prints what each became."""
    from oliveira.convert.hub import bring_in
    from oliveira.errors import CorruptError, UserError

    given = json.loads((folder / "cases.json").read_bytes())
    for good in given["good"]:
        bring_in(Path(good))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    found = {}
    for name, place in given["bad"].items():
        try:
            bring_in(Path(place))
            found[name] = ["taken", ""]
        except (UserError, CorruptError) as error:
            found[name] = [type(error).__name__, str(error)]
        except BaseException as error:  # told to the test
            found[name] = [type(error).__name__, str(error)[:300]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (folder / "found.json").write_text(json.dumps({"found": found, "peak": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
