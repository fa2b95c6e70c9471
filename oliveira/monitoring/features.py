"""Drift of what is no text: named numbers of each request and its answer (`Data.observe`), and of its error.

The rule is that of `drift`: the stream is cut into windows, here of `window` requests, each feature of a window gets a
score (`feature_statistics`), and the alarm is raised when `confirm` windows in a row each have one above its threshold.
The thresholds are those at which streams without drift raise it with probability `alpha` a window, all features and the
likeness of neighbouring windows included (`calibration`). `measure` checks that on requests that it has not seen.

    reference = build_feature_reference(held_out, window=50, alpha=1e-4, confirm=2, seed=0)
    monitor = FeatureMonitor(reference, window=50, alpha=1e-4, confirm=2)
    monitor.update({"level": 0.3, "spread": 1.1})
    monitor.update({"error": 0.08})          # a truth arrived: windows of their own
"""

from oliveira.monitoring.feature_monitor import ERROR, FeatureMonitor, build_feature_reference
from oliveira.monitoring.feature_statistics import FeatureSample
from oliveira.monitoring.measure import measure_feature_delay, measure_feature_false_alarms

__all__ = [
    "ERROR",
    "FeatureMonitor",
    "FeatureSample",
    "build_feature_reference",
    "measure_feature_delay",
    "measure_feature_false_alarms",
]
