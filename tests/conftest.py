"""Every test: one torch thread (bit-identity needs a fixed number), and no skip in CI for want of a program."""

from __future__ import annotations

import os

import pytest
import torch

os.environ["OLIVEIRA_LANG"] = "en"  # the tests read English on a Portuguese machine too


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):  # type: ignore[no-untyped-def]
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped in CI: {call.excinfo.value if call.excinfo else ''}"
    return report
