"""What the system refuses the kernels, threads or memory, is slower or an error: never the end of the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from oliveira.kernels import build

pytestmark = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))

SCRIPT = """
import logging, resource, sys
import torch
from torch import nn
from oliveira.kernels import build
from oliveira.kernels.linear import Kind, PackedMatrix, multiply

logging.basicConfig(stream=sys.stdout, format="log %(message)s")
torch.set_num_threads(1)

def product(d_in):
    matrix = PackedMatrix(Kind.int4, 16, d_in)
    matrix.put(nn.Linear(d_in, 16, bias=False))
    return matrix

small, wide = product(64), product(1 << 16)
few, many = torch.randn(8, 64), torch.randn(256, 1 << 16)  # many rows are copied: 64 MiB
expected = multiply(small, few, 1)
pages = int(open("/proc/self/statm").read().split()[0])
everything = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), everything[1]))
for _ in range(2):  # no room for a thread's stack
    assert torch.equal(multiply(small, few, 3), expected)
for _ in range(2):
    try:
        multiply(wide, many, 3)
        print("no error")
    except build.KernelError as error:
        print(error)
assert torch.equal(multiply(small, few, 3), expected)
resource.setrlimit(resource.RLIMIT_AS, everything)
assert multiply(wide, many, 3).isfinite().all() and torch.equal(multiply(small, few, 3), expected)
print("alive")
"""


def test_refused_threads_and_memory_are_survived() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [line for line in said if line.startswith("log")] == [
        "log the system refuses more threads: the kernels go on with those they have, slower"
    ]
    assert [line for line in said if "not enough memory" in line] == [
        line for line in said if "oliveira_linear" in line
    ]
    assert len(said) == 4 and said[-1] == "alive", said
