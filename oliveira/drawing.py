"""matplotlib as every picture of this program needs it."""

from __future__ import annotations

import warnings
from typing import Any


def pyplot() -> Any:
    """Without a screen; a $ in a name is a $, and a sign that the font has not is a box and no warning."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False
    warnings.filterwarnings("ignore", message="Glyph ", category=UserWarning)
    import matplotlib.pyplot as plt

    return plt
