"""The native products against their torch twins; the build; what happens without a compiler."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oliveira.compression.int8 import Int8Linear
from oliveira.compression.linear import CODECS, QuantisedLinear
from oliveira.errors import UserError
from oliveira.kernels import build
from oliveira.kernels.expand import expanded
from oliveira.kernels.linear import Kind, NativeLinear, PackedMatrix, multiply

needs_library = pytest.mark.skipif(build.unavailable() is not None, reason=str(build.unavailable()))
ROWS = [1, 2, 3, 4, 5, 8, 9, 12, 16, 17, 40, 300]
SHAPES = [(7, 64), (33, 32), (50, 128), (130, 192), (192, 576), (100, 16), (31, 768)]
FORMATS = ["fp32", "int8", *CODECS]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def best() -> Iterator[None]:
    before = build.path_in_use()
    yield
    build.use(before)


def layer(shape: tuple[int, int], method: str, *, bias: bool = True) -> nn.Module:
    linear = nn.Linear(shape[1], shape[0], bias=bias)
    match method:
        case "fp32":
            return linear
        case "int8":
            return Int8Linear(linear)
        case _:
            return QuantisedLinear(linear, method)


def weights(twin: Any) -> Tensor:
    if isinstance(twin, QuantisedLinear):
        return twin.dequantised()
    return twin.codes * twin.scale if isinstance(twin, Int8Linear) else twin.weight


@needs_library
@pytest.mark.parametrize("method", FORMATS)
@pytest.mark.parametrize("path", build.PATHS)
@torch.no_grad()
def test_equals_its_twin(path: str, method: str, best: None) -> None:
    """1e-5 relative; and a row has the same bits beside any other rows, and with any number of threads."""
    if path not in build.usable():
        with pytest.raises(UserError, match="processor"):
            build.use(path)
        return
    build.use(path)
    for shape in SHAPES:
        twin = layer(shape, method, bias=shape[0] % 2 == 0)
        native = NativeLinear(twin)
        torch.testing.assert_close(native.dequantised(), weights(twin), rtol=1e-6, atol=1e-7)
        x = torch.randn(max(ROWS), shape[1])
        whole = native(x)
        assert (whole - twin(x)).norm() <= 1e-5 * twin(x).norm()
        for rows in ROWS:
            native.threads = 1 + rows % 2
            assert torch.equal(native(x[:rows]), whole[:rows]), (shape, rows)


@needs_library
@pytest.mark.parametrize("method", CODECS)
@pytest.mark.parametrize("path", build.PATHS)
def test_written_out_it_has_the_bits_of_its_twin(path: str, method: str, best: None) -> None:
    if path not in build.usable():
        return
    build.use(path)
    for shape in ((7, 64), (192, 576), (31, 768)):
        twin = layer(shape, method)
        assert isinstance(twin, QuantisedLinear)
        for dtype in (torch.float32, torch.bfloat16):
            assert torch.equal(expanded(twin, dtype), twin.dequantised().to(dtype)), (shape, dtype)
    ragged = layer((3, 33), method)
    assert isinstance(ragged, QuantisedLinear) and torch.equal(expanded(ragged), ragged.dequantised())


@needs_library
@pytest.mark.parametrize("method", ["int8", "int4", "nf4"])
@pytest.mark.parametrize("path", build.PATHS)
@torch.no_grad()
def test_rounded_inputs(path: str, method: str, best: None) -> None:
    """activations="int8" is the twin on rounded inputs; nf4's sixteen values are rounded to bytes as well."""
    if path not in build.usable():
        return
    build.use(path)
    for shape in SHAPES:
        twin = layer(shape, method)
        native = NativeLinear(twin, activations="int8")
        x = torch.randn(max(ROWS), shape[1])
        x[3] = 0
        groups = x.unflatten(-1, (-1, min(64, shape[1])))
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
        expected = twin(((groups / scale).round() * scale).flatten(-2))
        whole = native(x)
        assert (whole - expected).norm() <= (8e-3 if method == "nf4" else 1e-3) * expected.norm()
        for rows in ROWS:
            native.threads = 1 + rows % 2
            assert torch.equal(native(x[:rows]), whole[:rows]), (shape, rows)
        x[1, 5], x[2, 0] = float("nan"), float("inf")
        bad = ~native(x).isfinite().all(dim=1)
        assert bad.tolist() == [row in (1, 2) for row in range(max(ROWS))]


@needs_library
@pytest.mark.parametrize("path", build.PATHS)
@torch.no_grad()
def test_six_bits(path: str, best: None) -> None:
    """For output matrices: 63 equal steps a block of 64 around zero, and the same promises."""
    if path not in build.usable():
        return
    build.use(path)
    for d_out, d_in in ((50, 128), (34, 32), (130, 192)):
        linear = nn.Linear(d_in, d_out)
        matrix = PackedMatrix(Kind.int6, d_out, d_in)
        matrix.put(linear)
        blocks = linear.weight.view(-1, 64)
        step = (blocks.abs().amax(dim=1, keepdim=True) / 31).half().float()
        expected = ((blocks / step).round().clamp(-31, 31) * step).view(d_out, d_in)
        torch.testing.assert_close(matrix.taken(d_out), expected, rtol=1e-6, atol=1e-7)
        x = torch.randn(20, d_in)
        found = multiply(matrix, x, 1)
        torch.testing.assert_close(found, F.linear(x, expected, linear.bias), rtol=1e-4, atol=1e-5)
        rounded = multiply(matrix, x, 1, int8=True)
        assert (rounded - found).norm() < 1e-2 * found.norm()
        for rows in (1, 2, 3, 9):
            assert torch.equal(multiply(matrix, x[:rows], 2), found[:rows])
            assert torch.equal(multiply(matrix, x[:rows], 2, int8=True), rounded[:rows])


@needs_library
def test_any_leading_dimensions_and_no_rows() -> None:
    twin = layer((24, 64), "int4")
    native = NativeLinear(twin)
    x = torch.randn(2, 64, 3).transpose(1, 2)  # not contiguous
    torch.testing.assert_close(native(x), twin(x), rtol=1e-4, atol=1e-5)
    assert native(torch.empty(0, 64)).shape == (0, 24)
    assert native(x[0, 0]).shape == (24,)


@needs_library
def test_large_scales_and_zeros() -> None:
    """fp16 minima and steps of every size, blocks of equal weights, subnormal steps."""
    linear = nn.Linear(128, 64, bias=False)
    with torch.no_grad():
        linear.weight *= 10.0 ** torch.linspace(-7, 4, 64)[:, None]
        linear.weight[5] = 0
        linear.weight[6] = 3.25
    for method in ("int4", "nf4"):
        twin = QuantisedLinear(linear, method)
        for path in build.usable():
            build.use(path)
            found, expected = NativeLinear(twin).dequantised(), twin.dequantised()
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-11)
    build.use(build.usable()[0])


@needs_library
def test_bits_per_weight() -> None:
    assert NativeLinear(layer((256, 256), "int4")).bits_per_weight() == 4.5
    assert NativeLinear(layer((256, 256), "nf4")).bits_per_weight() == 4.5
    assert NativeLinear(layer((256, 256), "int8")).bits_per_weight() == pytest.approx(8.125)


@needs_library
def test_wrong_arguments_are_refused() -> None:
    native = NativeLinear(layer((16, 64), "int4"))
    for x in (torch.randn(2, 32), torch.randn(2, 64, dtype=torch.float64), torch.ones(2, 64, dtype=torch.long)):
        with pytest.raises(UserError, match="float32"):
            native(x)
    with pytest.raises(UserError, match="not a multiple of 16"):
        NativeLinear(nn.Linear(24, 8))
    with pytest.raises(UserError, match="cross rows"):
        NativeLinear(QuantisedLinear(nn.Linear(96, 8), "nf4"))
    with pytest.raises(UserError, match="Conv1d"):
        NativeLinear(nn.Conv1d(1, 1, 1))
    matrix = PackedMatrix(Kind.int4, 32, 64)
    for wrong in (nn.Linear(64, 48), nn.Linear(128, 32)):
        with pytest.raises(UserError, match="does not fit"):
            matrix.put(wrong)
    with pytest.raises(UserError, match="Start from fp32"):
        matrix.put(layer((32, 64), "nf4"))
    with pytest.raises(UserError, match="Use one of"):
        build.use("sse9")


@needs_library
@torch.no_grad()
def test_several_python_threads_at_once() -> None:
    native = NativeLinear(layer((256, 256), "int4"), threads=2)
    inputs = [torch.randn(9, 256) for _ in range(4)]
    expected = [native(x) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            if not torch.equal(native(inputs[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _child(native: NativeLinear, x: Tensor, expected: Tensor, queue: Any) -> None:
    queue.put(bool(torch.equal(native(x), expected)))


@needs_library
def test_a_forked_child_has_its_own_threads() -> None:
    native = NativeLinear(layer((64, 64), "int4"), threads=2)
    x = torch.randn(4, 64)
    expected = native(x)
    context = get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(native, x, expected, queue))
    child.start()
    assert queue.get(timeout=60)
    child.join()


# The build ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loads anew within the test, and anew after it."""
    monkeypatch.delenv(build.VARIABLE, raising=False)
    build._load.cache_clear()
    yield
    monkeypatch.undo()
    build._load.cache_clear()


def test_without_a_compiler(fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert "Install g++" in (build.unavailable() or "")
    assert len(caplog.records) == 1  # said once
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler"):
        NativeLinear(layer((16, 64), "int4"))


def test_switched_off_and_misspelt(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.VARIABLE, "off")
    assert "off" in (build.unavailable() or "")
    build._load.cache_clear()
    monkeypatch.setenv(build.VARIABLE, "avx1024")
    with pytest.raises(UserError, match="avx1024"):
        build.unavailable()


COMPILER = """#!{python}
import sys, time, pathlib
if "--version" in sys.argv:
    print("a compiler for tests"); raise SystemExit
target = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
target.write_bytes(b"half")
with open({log!r}, "a") as log:
    print(target.name, file=log, flush=True)
time.sleep({seconds})
target.write_bytes(b"whole " + target.name.encode())
raise SystemExit({code})
"""


def compiler(folder: Path, *, seconds: float = 0, code: int = 0) -> Path:
    path = folder / "compiler"
    text = COMPILER.format(python=sys.executable, log=str(folder / "log"), seconds=seconds, code=code)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def building(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CXX": str(folder / "compiler"), "XDG_CACHE_HOME": str(folder / "cache")}
    command = "from oliveira.kernels.build import build; build()"
    return subprocess.Popen([sys.executable, "-c", command], env=environment, start_new_session=True)


def test_a_killed_build_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    compiler(tmp_path, seconds=60)
    first = building(tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    cache = tmp_path / "cache" / "oliveira" / "kernels"
    assert not list(cache.glob("*.so")) and list(cache.glob(".build-*"))
    compiler(tmp_path)
    assert building(tmp_path).wait(timeout=120) == 0
    (library,) = cache.glob("*.so")
    assert library.read_bytes().startswith(b"whole")
    assert not list(cache.glob(".build-*"))


def test_two_processes_build_once(tmp_path: Path) -> None:
    compiler(tmp_path, seconds=0.3)
    both = [building(tmp_path) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert (tmp_path / "log").read_text().count("whole.so") == 1


def run_module(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m oliveira.kernels`, as `make install` says it."""
    surroundings = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **environment}
    command = [sys.executable, "-m", "oliveira.kernels", *arguments]
    return subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_build_says_what_it_does_and_how_long_it_may_take(tmp_path: Path, quiet: bool) -> None:
    program = str(compiler(tmp_path))
    first = run_module(tmp_path, *["--quiet"] * quiet, CXX=program)
    assert first.returncode == 0 and ("compiling the C++ kernels" in first.stderr) != quiet
    second = run_module(tmp_path, CXX=program)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


def test_installing_goes_on_without_a_compiler(tmp_path: Path) -> None:
    done = run_module(tmp_path, CXX="", PATH="")
    assert done.returncode == 0 and (done.stdout + done.stderr).count("Install g++") == 1


def test_a_compiler_that_fails(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, code=1)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "could not build" in (build.unavailable() or "")


def test_a_library_that_cannot_be_loaded(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "cannot be loaded" in (build.unavailable() or "")


def test_a_cache_that_cannot_be_written(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CXX", str(compiler(tmp_path)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "XDG_CACHE_HOME" in (build.unavailable() or "")


def test_a_structure_that_is_not_the_librarys_is_refused() -> None:
    @build.mirrors("Norm")
    class Half(ctypes.Structure):
        _fields_ = (("gain", ctypes.c_void_p),)

    try:
        with pytest.raises(AssertionError, match="Norm has 16 bytes"):
            build.library()
    finally:
        build._unmeasured.remove(("Norm", Half))
    assert build.library().oliveira_size(b"Nothing") == 0
