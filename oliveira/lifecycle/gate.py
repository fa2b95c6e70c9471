"""The gate: may the challenger replace the champion? Numbers in, verdict and reasons out; nothing is looked up here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from oliveira.lifecycle.latency import Latency
from oliveira.world import GateSection

BITS = "bits per byte"


class Scores(NamedTuple):
    before: float  # of the champion
    after: float  # of the challenger

    @property
    def finite(self) -> bool:
        return math.isfinite(self.before) and math.isfinite(self.after)

    def as_json(self) -> dict[str, float | None]:
        return {"before": _json(self.before), "after": _json(self.after)}


def lost(scores: Scores, better: Literal["higher", "lower"]) -> float:
    """Share of the figure before; negative where it got better."""
    worse = scores.after - scores.before
    return (worse if better == "lower" else -worse) / max(abs(scores.before), 1e-12)


@dataclass(frozen=True)
class Measured:
    """Held-out data of what was known (`base`) and of what is new, how fast it answers as it is served, smoke requests.

    Of text both are bits per byte. Of a task `base` is its `metric`; `new` is the mean error of the answers whose truth
    came back, and what is gained is a share of it.
    """

    base: Scores
    new: Scores
    latency: Latency
    smoke: bool
    metric: str = BITS
    better: Literal["higher", "lower"] = "lower"
    error: str = BITS  # what `new` is

    @property
    def gain(self) -> float:
        won = self.new.before - self.new.after
        return won if self.error == BITS else won / max(abs(self.new.before), 1e-12)

    @property
    def forgetting(self) -> float:
        """Share of the base figure that is lost; negative where it got better."""
        return lost(self.base, self.better)


def judge(measured: Measured, gate: GateSection) -> tuple[bool, dict[str, Any]]:
    """(passes, numbers). Every number that the verdict rests on is in `numbers`, with the thresholds and the
    reasons. Latency refuses only when the whole interval of the ratio lies above the threshold."""
    latency, of_text = measured.latency, measured.error == BITS
    finite = measured.base.finite and measured.new.finite and math.isfinite(latency.ratio)
    gain, forgetting = (measured.gain, measured.forgetting) if finite else (None, None)
    reasons = []
    if not finite:
        reasons.append("a score of the challenger is not a finite number")
    if not measured.smoke:
        reasons.append("the smoke prompts failed")
    if gain is not None and gain < gate.min_gain:
        if of_text:
            reasons.append(f"gain {gain:.4f} bits per byte on the new domain is below {gate.min_gain}")
        elif gain < 0:
            reasons.append(
                f"the error of the answers whose truth came back rose by {-gain:.2%} and should fall by "
                f"{gate.min_gain:.2%}"
            )
        else:
            reasons.append(
                f"the error of the answers whose truth came back fell by {gain:.2%}, less than {gate.min_gain:.2%}"
            )
    if forgetting is not None and forgetting > gate.max_forgetting:
        if of_text:
            reasons.append(f"forgetting {forgetting:.2%} of the base domain is above {gate.max_forgetting:.0%}")
        else:
            reasons.append(
                f"{measured.metric} on the known data is {forgetting:.2%} worse, more than {gate.max_forgetting:.0%}"
            )
    if latency.low > gate.max_latency:
        reasons.append(
            f"latency {latency.ratio:.2f} × the champion's ({latency.low:.2f} to {latency.high:.2f}) "
            f"is above {gate.max_latency}"
        )
    milliseconds = {"before": _json(latency.champion * 1e3), "after": _json(latency.challenger * 1e3)}
    base, new = measured.base.as_json(), measured.new.as_json()
    scores = (
        {"validation_bits_per_byte": {"base": base, "new": new}, "latency_ms_a_token": milliseconds}
        if of_text
        else {
            "scores": {"base": {"name": measured.metric} | base, "new": {"name": measured.error} | new},
            "latency_ms_an_answer": milliseconds,
        }
    )
    numbers = scores | {
        "gain": gain,
        "forgetting": forgetting,
        "latency_ratio": _json(latency.ratio),
        "latency_interval": [_json(latency.low), _json(latency.high)],
        "smoke": measured.smoke,
        "reasons": reasons or ["every number is within its threshold"],
        "thresholds": gate.model_dump(include={"min_gain", "max_forgetting", "max_latency"}),
    }
    return not reasons, numbers


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
