"""Statistical forecasters beside the trained ones: AutoETS and AutoARIMA of statsforecast, where that is installed.

Each is fitted once, to the last training steps, and then forecasts every test window from the steps up to it, with the
parameters it has. The season is the shortest period of the calendar, if it is at most LONGEST_SEASON steps.

Papers: Hyndman & Khandakar 2008, "Automatic time series forecasting" (both).
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import numpy as np

from oliveira.tasks.base import Array

PACKAGE = "statsforecast"
LONGEST_SEASON = 24  # steps; an exponential smoothing of more is refused by the package
FITTED, SEEN = 1000, 200  # training steps, steps before a window


def available() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


def forecasts(train: Array, values: Array, ends: Array, horizon: int, season: int) -> dict[str, Array]:
    """For each forecaster (windows, horizon), from `values` up to each of `ends`. What cannot be fitted is left out."""
    from statsforecast import models

    season = season if 1 < season <= LONGEST_SEASON and len(train) > 2 * season else 1
    fitting = train[-FITTED:]
    phase = len(train) - len(fitting)  # the states that were fitted are those of such a step
    begins = [end - SEEN + (phase - end + SEEN) % season if end > SEEN + season else phase % season for end in ends]
    found: dict[str, Array] = {}
    for name in ("AutoETS", "AutoARIMA"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the optimiser tried
            try:
                fitted: Any = getattr(models, name)(season_length=season).fit(fitting)
                windows = [values[begin:end] for begin, end in zip(begins, ends, strict=True)]
                rows = [fitted.forward(y=window, h=horizon)["mean"] for window in windows]
            except (ValueError, ArithmeticError, np.linalg.LinAlgError, NotImplementedError):
                continue
        found[name] = np.stack(rows)
    return found
