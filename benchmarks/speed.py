"""Every model of the catalogue beside its reference: same weights, same inputs, forward and forward + backward.

    python -m benchmarks.speed [--rounds 9] [--threads 1] [--only lstm,gru]

Prints a table and writes results/bench-speed.json: `ratios` row → reference's seconds over ours, above 1 = ours is
faster. The two take turns (A B A B), the median of the rounds' ratios counts. With --only the other rows are kept;
commit and date are those of the last run.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch

import benchmarks
from benchmarks.case import Case
from benchmarks.table import RESULTS, origin
from benchmarks.timing import interleave
from oliveira.files import write_json_atomic

RESULT = RESULTS / "bench-speed.json"


def cases() -> Iterator[Case]:
    for module in iter_modules(benchmarks.__path__, "benchmarks."):
        if module.name.startswith("benchmarks.speed_"):
            yield from import_module(module.name).cases()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="names of models, separated by commas")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    wanted = set(filter(None, given.only.split(",")))
    rows: dict[str, Any] = json.loads(RESULT.read_bytes())["rows"] if wanted and RESULT.exists() else {}
    source = origin(f"python -m benchmarks.speed --rounds {given.rounds} --threads {given.threads}", given.threads)
    for case in cases():
        if wanted and case.model not in wanted:
            continue
        pair = interleave(case.ours, case.reference, rounds=given.rounds)
        rows[case.name] = {"model": case.model, "reference": case.reference_name, **asdict(pair)}
        print(
            f"{case.name:<56} ours {pair.ours * 1e3:8.1f} ms  {case.reference_name:<34} {pair.peer * 1e3:8.1f} ms  "
            f"ratio {pair.ratio:.2f} ({pair.low:.2f}–{pair.high:.2f})",
            flush=True,
        )
        write_json_atomic(
            RESULT,
            {
                **source,
                "ratios": {name: round(row["ratio"], 3) for name, row in rows.items()},
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
