"""`make bench`: every table of this folder, one after the other; each writes results/bench-NAME.json.

    python -m benchmarks [NAME …]

After them come the pictures (`plot`) and docs/benchmarks.md (`page`).
Each runs in a process of its own, with its own number of threads. A table that fails is named at the end, and the exit
code is 1; a peer that cannot be had is named by its table, whose other rows are kept.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLES: dict[str, list[str]] = {
    "speed": [],
    "memory_long_attention": [],
    "decode": [],
    "train": [],
    "train_parts": [],
    "qlora": [],
    "q4": ["--fetch"],
    "restore": ["--fetch"],
    "speculation": [],
    "streams": [],
    "plot": [],
    "page": [],  # last: it reads what the others wrote
}


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in TABLES]:
        raise SystemExit(f"{', '.join(unknown)}: not a table. Use {', '.join(TABLES)}.")
    failed = []
    for name in names or TABLES:
        print(f"benchmarks.{name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *TABLES[name]], cwd=ROOT, check=False)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
