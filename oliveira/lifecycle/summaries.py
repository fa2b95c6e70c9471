"""What a finished stage says of itself in one line, from its outputs: while it works, and in `oliveira status`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oliveira.language import figure, translate

Summary = Callable[[dict[str, Any]], str]


def trained(outputs: dict[str, Any]) -> str:
    """The task's own figure first, then what needs no learning."""
    unit = f" {outputs['unit']}" if outputs["unit"] else ""
    text = f"{outputs['model']}: {outputs['metric']} {figure(outputs['test'], '.4g')}{unit}"
    if "baseline" not in outputs:
        return text
    return f"{text}, {translate(outputs['baseline'])} {figure(outputs['baseline_test'], '.4g')}"


def monitored(outputs: dict[str, Any]) -> str:
    if not outputs["windows"]:  # too few held-out requests: nothing was counted, or nothing is watched
        watched = outputs.get("watched") == "yes"
        return "drift is watched, false alarms are not counted" if watched else "no drift is watched"
    return f"{outputs['alarms']} false alarms in {outputs['windows']} windows"


def adapted(outputs: dict[str, Any]) -> str:
    """Of trained weights: what the text has won, what the general one has lost, and which of the two is served."""
    scores = (
        f"your text {figure(outputs['base_before'], '.3f')} → {figure(outputs['base_after'], '.3f')}, "
        f"general text {figure(outputs['general_before'], '.3f')} → {figure(outputs['general_after'], '.3f')}"
    )
    return scores if outputs["served"] == "adapted" else f"{scores}; the base is served: {outputs['reasons']}"


def compressed(outputs: dict[str, Any]) -> str:
    sizes = {name.removesuffix("_bytes"): value for name, value in outputs.items() if name.endswith("_bytes")}
    return ", ".join(f"{name} {figure(size / 2**20, '.2f')} MiB" for name, size in sorted(sizes.items()))


def chosen(outputs: dict[str, Any]) -> str:
    """Of a task's weights in fewer bits: how they compare, and why they are not served where they are not."""
    return f"{outputs['told']}; fp32 is served: {outputs['reason']}" if outputs["reason"] else str(outputs["told"])


def exported(outputs: dict[str, Any]) -> str:
    if "onnx_bytes" not in outputs:
        return f"ONNX: {outputs['onnx']}"
    return f"ONNX: {outputs['onnx_bytes'] / 2**20:.2f} MiB"


_BOTH: dict[str, Summary] = {
    "package": lambda o: f"artifact {o['base'][:12]}",
    "export": exported,
    "serve": lambda o: f"champion {o['champion'][:12]}",
    "monitor": monitored,
}
OF_TEXT: dict[str, Summary] = _BOTH | {
    "collect": lambda o: (
        f"{o['base_characters']} characters of {o['base_source']}, {o['new_characters']} of {o['new_source']}"
    ),
    "preprocess": lambda o: f"{o['base_tokens']} + {o['new_tokens']} training tokens",
    "train": lambda o: f"{o['validation_bits_per_byte']:.3f} bits per byte",
    "adapt": lambda o: (
        f"new domain {o['new_before']:.3f} → {o['new_after']:.3f}, base {o['base_before']:.3f} → {o['base_after']:.3f}"
    ),
    "compress": compressed,
}
OF_BASE: dict[str, Summary] = _BOTH | {
    "collect": lambda o: f"{OF_TEXT['collect'](o)}, {o['general_characters']} of {o['general_source']}",
    "bring_in": lambda o: f"{o['base']}: {o['form']}, {o['parameters']} parameters, licence {o['licence']}",
    "preprocess": lambda o: f"{o['base_tokens']} training tokens",
    "adapt": adapted,
    "compress": compressed,
}
OF_TASK: dict[str, Summary] = _BOTH | {
    "collect": lambda o: f"{o['train_examples']} examples to learn from",
    "train": trained,
    "compress": chosen,
}


def told(name: str, outputs: dict[str, Any]) -> str:
    """Of a stage of either life; "" for outputs of another version."""
    for summaries in (OF_TASK, OF_BASE, OF_TEXT):
        try:
            return summaries[name](outputs)
        except KeyError:
            continue
    return ""
