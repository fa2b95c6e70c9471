"""Drift of the live stream from what the model was trained on, with a false-alarm rate that is measured.

The rule: the stream is cut into windows of `window` tokens, and each window gets four scores (`statistics`). A
window is *beyond* when at least one score is above its threshold. The alarm is raised when `confirm` windows in
a row are beyond, and stays until `reset`. The thresholds are those at which streams without drift raise it with
probability `alpha` a window, all four tests and the likeness of neighbouring windows included (`calibration`).
`measure` checks that on text that the calibration has not seen.

    reference = build_reference(held_out, window=2000, alpha=1e-4, seed=0)
    monitor = DriftMonitor(reference, window=2000, alpha=1e-4, confirm=2)
    monitor.update(Sample(tokens, loss))
"""

from oliveira.monitoring.calibration import build_reference
from oliveira.monitoring.detector import DriftMonitor, DriftState
from oliveira.monitoring.measure import measure_delay, measure_false_alarms
from oliveira.monitoring.statistics import Sample

__all__ = [
    "DriftMonitor",
    "DriftState",
    "Sample",
    "build_reference",
    "measure_delay",
    "measure_false_alarms",
]
