"""Peak memory of a call, by the benchmark's own measure. Benchmarks are not installed: the checkout goes on it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.memory_long_attention import exponent, peak_bytes

__all__ = ["exponent", "peak_bytes"]
