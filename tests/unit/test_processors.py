"""What a container or a pinned process may use is what counts, not what the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oliveira.processors import limit_threads, processors

PACKAGE = Path(__file__).parents[2] / "oliveira"


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


def count(folder: Path, membership: str, **files: str) -> int:
    (folder / "cgroup").write_text(membership)
    for name, text in files.items():
        path = folder / "groups" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return processors(folder / "cgroup", folder / "groups")


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a__b__cpu_dot_max": "250000 100000\n"}, 3),
        ("0::/a/b\n", {"a__b__cpu_dot_max": "max 100000\n", "a__cpu_dot_max": "150000 100000"}, 2),
        ("0::/\n", {"cpu_dot_max": "20000 100000\n"}, 1),
        ("0::/../../seen/elsewhere\n", {"cpu_dot_max": "400000 100000\n"}, 4),
        ("0::/a\n", {"a__cpu_dot_max": "max 100000\n"}, 8),
        ("0::/a\n", {"a__cpu_dot_max": "3200000 100000\n"}, 8),
        ("0::/a\n", {"a__cpu_dot_max": "nonsense"}, 8),
        ("4:memory:/x\n3:cpu,cpuacct:/docker/1\n",
         {"cpu,cpuacct__docker__1__cpu_dot_cfs_quota_us": "50000\n",
          "cpu,cpuacct__docker__1__cpu_dot_cfs_period_us": "100000\n"}, 1),
        ("3:cpu:/gone\n", {"cpu__cpu_dot_cfs_quota_us": "200000", "cpu__cpu_dot_cfs_period_us": "100000"}, 2),
        ("3:cpu:/x\n", {"cpu__cpu_dot_cfs_quota_us": "-1", "cpu__cpu_dot_cfs_period_us": "100000"}, 8),
        ("3:cpu:/x\n", {"cpu__cpu_dot_cfs_quota_us": "5", "cpu__cpu_dot_cfs_period_us": "0"}, 8),
        ("", {}, 8),
    ],
)  # fmt: skip
def test_quotas(tmp_path: Path, membership: str, files: dict[str, str], expected: int) -> None:
    assert count(tmp_path, membership, **files) == expected


def test_without_control_groups(tmp_path: Path) -> None:
    assert processors(tmp_path / "none", tmp_path) == len(os.sched_getaffinity(0))


def test_affinity_of_a_real_process() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from oliveira.processors import processors; print(processors())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, text=True).stdout == "1\n"


@pytest.mark.usefixtures("eight")
def test_threads_of_libraries_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_threads()
    assert int(os.environ["OMP_NUM_THREADS"]) <= 8
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "5", "what a person has set stays"


def test_nobody_counts_for_himself() -> None:
    own = {path for path in PACKAGE.rglob("*.py") if "cpu_count" in path.read_text(encoding="utf-8")}
    assert own == {PACKAGE / "processors.py"}
