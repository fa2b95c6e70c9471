"""Compiles source/*.cpp with the machine's own compiler at first use, keeps the library, loads it through ctypes.

The name of the kept file is a digest of sources, flags and compiler, so that none is ever stale; it appears under that
name only when it is whole, and a lock keeps two processes from building at once. OLIVEIRA_KERNEL = scalar, avx2,
avx512, avx512vnni or off chooses the path; otherwise the best that the processor has.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from oliveira.errors import OliveiraError, UserError
from oliveira.processors import processors

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "source"
VARIABLE = "OLIVEIRA_KERNEL"
PATHS = ("avx512vnni", "avx512", "avx2", "scalar")  # best first
_COMPILERS = ("g++", "clang++", "c++")
_BUILDING = ".build-"
_SAYING = "compiling the C++ kernels for this processor, once: half a minute on two free cores, up to two on busy ones."
# No contraction: a sum must be rounded in the same way in every copy of a loop (docs/kernels.md).
_FLAGS = ["-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]


class BuildError(OliveiraError):
    """The library cannot be had on this machine. The torch twins do the same work, slower."""


class KernelError(OliveiraError):
    """A call of the library that did nothing. The process and the library's threads go on."""


def _parts() -> list[tuple[str, list[str]]]:
    """(object, what the compiler is told) of each piece. Code for a processor is in pieces of its own."""
    parts = [(name, ["-O2", f"{name}.cpp"]) for name in ("api", "decoder", "threads")]
    parts.append(("scalar", ["-O2", "kernels.cpp"]))
    if platform.machine() in ("x86_64", "AMD64"):
        parts.append(("avx2", ["-O3", "-DOLIVEIRA_AVX2", *_AVX2, "kernels.cpp"]))
        wide = ["-O3", "-DOLIVEIRA_AVX512", *_AVX2, *_AVX512]
        parts.append(("avx512", [*wide, "kernels.cpp"]))
        parts.append(("avx512vnni", [*wide, "-mavx512vnni", "kernels.cpp"]))
    return parts


def _compiler() -> list[str]:
    for name in filter(None, (os.environ.get("CXX"), *_COMPILERS)):
        if found := shutil.which(name):
            return [found]
    raise BuildError("no C++ compiler was found (g++ or clang++): torch does the kernels' work, slower. Install g++.")


def cache_folder() -> Path:
    """Raises `BuildError` for a user without a home folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "oliveira" / "kernels"
    except RuntimeError:
        raise BuildError(
            "this user has no home folder for the compiled kernels: torch does their work, slower. Set XDG_CACHE_HOME."
        ) from None


def build() -> Path:
    """The library's file, compiled, with a word, if it is not there (25 seconds on two free cores). Or `BuildError`."""
    compiler = _compiler()
    digest = hashlib.sha256()
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout
    for part in (version, repr((_FLAGS, _parts())).encode()):
        digest.update(part + b"\0")
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    library = cache_folder() / f"{digest.hexdigest()[:24]}.so"
    if not library.exists():
        try:
            with _locked(library.parent):
                if not library.exists():  # another process may have built it while we waited
                    for left in library.parent.glob(f"{_BUILDING}*"):  # by a build that was killed
                        shutil.rmtree(left, ignore_errors=True)
                    log.warning(_SAYING)
                    _compile(compiler, library)
        except OSError as error:
            raise BuildError(f"{cache_folder()} cannot be written ({error.strerror}). Set XDG_CACHE_HOME.") from None
    return library


def _compile(compiler: list[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=library.parent) as folder:

        def make(name: str, arguments: list[str]) -> Path:
            target = Path(folder) / name
            command = [*compiler, *_FLAGS, *arguments, "-o", str(target)]
            done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
                raise BuildError(f"{compiler[0]} could not build the kernels: {reason.strip()}. Torch does their work.")
            return target

        with ThreadPoolExecutor(processors()) as threads:
            objects = list(threads.map(lambda part: make(f"{part[0]}.o", ["-c", *part[1]]), _parts()))
        make("whole.so", ["-shared", "-pthread", *map(str, objects)]).replace(library)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time. A killed holder leaves the file but not the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_in_use = ""


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library with a path chosen, or why there is none."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "off":
        return f"{VARIABLE}=off: torch does the kernels' work."
    if wanted and wanted not in PATHS:
        raise UserError(f"{VARIABLE} = {wanted!r} is not known. Use one of {', '.join(PATHS)}, off.")
    try:
        library = ctypes.CDLL(str(build()))
    except BuildError as error:
        log.warning("%s", error)
        return str(error)
    except OSError as error:
        reason = f"the built kernels cannot be loaded ({error}): torch does their work. Empty {cache_folder()}."
        log.warning("%s", reason)
        return reason
    _declare(library)
    chosen = next((p for p in ([wanted] if wanted else PATHS) if library.oliveira_use(p.encode())), None)
    if chosen is None:
        raise UserError(f"{VARIABLE} = {wanted}: this processor does not have it. Use scalar, or leave it out.")
    _remember(chosen)
    log.info("kernels: %s", chosen)
    return library


# Codes of source/api.cpp.
_FEWER_THREADS, _NO_MEMORY = 1, 2


class _Code(ctypes.c_int32):
    """What a call that may fail returns."""


def _checked(code: _Code, function: Any, _: object) -> None:
    """Raises `KernelError` for work that was not done."""
    if code.value == _FEWER_THREADS:  # said once by the library
        log.warning("the system refuses more threads: the kernels go on with those they have, slower")
    elif code.value:
        reason = "there is not enough memory" if code.value == _NO_MEMORY else f"code {code.value}"
        raise KernelError(f"{function.__name__} could not be computed: {reason}. Ask for less at once, or free memory.")


def _declare(library: ctypes.CDLL) -> None:
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    for name, result, arguments in (
        ("has", integer, [ctypes.c_char_p]),
        ("use", integer, [ctypes.c_char_p]),
        ("size", long, [ctypes.c_char_p]),
        ("bytes", long, [integer, long, long]),
        ("huge_pages", None, [pointer, long]),
        ("pack", None, [pointer, pointer, pointer, pointer, integer, integer, integer]),
        ("unpack", None, [pointer, pointer, integer, integer, integer]),
        ("linear", _Code, [pointer, pointer, pointer, long, integer, integer]),
        ("read", _Code, [pointer, pointer, integer, integer]),
        ("expand", _Code, [pointer, pointer, pointer, pointer, integer, pointer, integer, integer]),
        ("gated", _Code, [pointer, pointer, pointer, integer, pointer, pointer, integer]),
        ("causal", _Code, [pointer, integer]),
        ("decode", _Code, [pointer, pointer]),
        ("sample", _Code, [pointer, integer, integer, integer]),
    ):
        function = getattr(library, f"oliveira_{name}")
        function.restype, function.argtypes = result, arguments
        if result is _Code:
            function.errcheck = _checked


def unavailable() -> str | None:
    """Why the kernels cannot be used, in one sentence; None if they can. Builds them at the first call."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def library() -> ctypes.CDLL:
    """Raises `BuildError` if there is none."""
    loaded = _load()
    if isinstance(loaded, str):
        raise BuildError(loaded)
    for name, structure in tuple(_unmeasured):
        theirs, ours = loaded.oliveira_size(name.encode()), ctypes.sizeof(structure)
        assert theirs == ours, f"{name} has {theirs} bytes in source/*.h and {ours} in {structure.__module__}"
        _unmeasured.remove((name, structure))
    return loaded


Structure = TypeVar("Structure", bound=type[ctypes.Structure])
_unmeasured: list[tuple[str, type[ctypes.Structure]]] = []


def mirrors(name: str) -> Callable[[Structure], Structure]:
    """Of a structure: its name in source/*.h. Its size is compared before the library is used."""

    def noted(structure: Structure) -> Structure:
        _unmeasured.append((name, structure))
        return structure

    return noted


def use(path: str) -> None:
    """Computes on another path from now on: "scalar", "avx2", … . Raises `UserError` if this processor cannot."""
    if path not in PATHS or not library().oliveira_use(path.encode()):
        raise UserError(f"kernel path {path!r} is not there on this processor. Use one of {', '.join(usable())}.")
    _remember(path)


def _remember(path: str) -> None:
    global _in_use
    _in_use = path


def digest_in_use() -> str:
    """Of sources, flags and compiler: other kernels may round otherwise. Raises `BuildError` if there are none."""
    return Path(library()._name).stem


def path_in_use() -> str:
    """The path that computes now. Raises `BuildError` if there are no kernels."""
    library()
    return _in_use


def usable() -> list[str]:
    """The paths of this processor, best first."""
    return [path for path in PATHS if library().oliveira_has(path.encode())]
