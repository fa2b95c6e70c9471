"""The gate: may the challenger replace the champion? Numbers in, verdict and reasons out; nothing is looked up here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from oliveira.lifecycle.latency import Latency
from oliveira.world import GateSection


@dataclass(frozen=True)
class Measured:
    """Bits per byte on held-out text of each domain, how fast it decodes as it is served, smoke prompts."""

    base_before: float
    base_after: float
    new_before: float
    new_after: float
    latency: Latency
    smoke: bool


def judge(measured: Measured, gate: GateSection) -> tuple[bool, dict[str, Any]]:
    """(passes, numbers). Every number that the verdict rests on is in `numbers`, with the thresholds and the
    reasons. Latency refuses only when the whole interval of the ratio lies above the threshold."""
    latency = measured.latency
    figures = (measured.base_after, measured.new_after, latency.ratio)
    finite = all(math.isfinite(value) for value in figures)
    gain = measured.new_before - measured.new_after if finite else None
    forgetting = measured.base_after / measured.base_before - 1 if finite else None
    reasons = []
    if not finite:
        reasons.append("a score of the challenger is not a finite number")
    if not measured.smoke:
        reasons.append("the smoke prompts failed")
    if gain is not None and gain < gate.min_gain:
        reasons.append(f"gain {gain:.4f} bits per byte on the new domain is below {gate.min_gain}")
    if forgetting is not None and forgetting > gate.max_forgetting:
        reasons.append(f"forgetting {forgetting:.2%} of the base domain is above {gate.max_forgetting:.0%}")
    if latency.low > gate.max_latency:
        reasons.append(
            f"latency {latency.ratio:.2f} × the champion's ({latency.low:.2f} to {latency.high:.2f}) "
            f"is above {gate.max_latency}"
        )
    numbers = {
        "validation_bits_per_byte": {
            "base": {"before": measured.base_before, "after": _json(measured.base_after)},
            "new": {"before": measured.new_before, "after": _json(measured.new_after)},
        },
        "gain": gain,
        "forgetting": forgetting,
        "latency_ratio": _json(latency.ratio),
        "latency_interval": [_json(latency.low), _json(latency.high)],
        "latency_ms_a_token": {"before": _json(latency.champion * 1e3), "after": _json(latency.challenger * 1e3)},
        "smoke": measured.smoke,
        "reasons": reasons or ["every number is within its threshold"],
        "thresholds": gate.model_dump(include={"min_gain", "max_forgetting", "max_latency"}),
    }
    return not reasons, numbers


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
