"""Every test: one torch thread (bit-identity needs a fixed number), and no skip in CI for want of a program.

`--record FILE` writes what was run, when and where, and how it ended: `make test-long` keeps its result so.
In two processes (`-n 2 --dist loadgroup`) tests that belong together stay in one: see `_together`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

_outcomes: dict[str, list[object]] = {}
_began = time.time()
_priority = os.getpriority(os.PRIO_PROCESS, 0)

os.environ["OLIVEIRA_LANG"] = "en"  # the tests read English on a Portuguese machine too


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command that is run in this process listens to signals; the next test must not find its ears."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):  # type: ignore[no-untyped-def]
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped in CI: {call.excinfo.value if call.excinfo else ''}"
    return report


def _together(item: pytest.Item) -> str:
    """A file stays whole; the contract's tests stay with their model."""
    if item.path.parent.name == "contract":
        return f"contract-{item.name.partition('[')[2].partition('-')[0]}"
    return str(item.path)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads them
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_together(item)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """In two processes the servers under test go first on the processor; other tests take what they leave."""
    if hasattr(item.config, "workerinput"):
        with contextlib.suppress(PermissionError):  # back to the first priority: root alone may
            os.setpriority(os.PRIO_PROCESS, 0, _priority + (0 if item.path.parent.name == "system" else 5))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, metavar="FILE", help="Write date, commit, machine and outcomes to FILE.")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the process that shows the results, whoever ran the test."""
    name = report.nodeid.rpartition("@")[0] if hasattr(report, "node") else report.nodeid  # xdist appends the group
    if report.when == "call" or report.outcome != "passed":
        _outcomes[name] = [report.outcome, round(report.duration, 1)]


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--record")
    if path is None or hasattr(session.config, "workerinput") or not _outcomes:
        return
    from oliveira.files import write_json_atomic
    from oliveira.runs.run import device
    from oliveira.study.provenance import commit

    ends = [outcome for outcome, _ in _outcomes.values()]
    record = {
        "command": "make test-long",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "device": device(),
        "seconds": round(time.time() - _began),
        **{end: ends.count(end) for end in ("passed", "failed", "skipped")},
        "tests": dict(sorted(_outcomes.items())),
    }
    write_json_atomic(path, record)
