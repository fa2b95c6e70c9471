"""Which LoRA adapters a home has. No tensors: the front asks as well."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER, DESCRIPTION = "adapters", "adapter.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def adapter_names(home: Path) -> list[str]:
    """Folders of HOME/adapters that hold an adapter: the names that a client may send as `model`."""
    found = (path.parent.name for path in (home / FOLDER).glob(f"*/{DESCRIPTION}"))
    return sorted(name for name in found if NAME.fullmatch(name))
