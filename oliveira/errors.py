"""What can go wrong, sorted by who can mend it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# How torch says it; Python and numpy raise MemoryError.
_NO_MEMORY = ("can't allocate memory", "Storage size calculation overflowed", "numel: integer multiplication overflow")


class OliveiraError(Exception):
    """Any failure that Oliveira explains in one sentence instead of a traceback."""

    exit_code = 1


class UserError(OliveiraError):
    """Something a person can put right: names the field, the value and the remedy. Nothing was started."""

    exit_code = 2


class CorruptError(OliveiraError):
    """Bytes on disk are not the bytes that were written. Never loaded, never served."""

    exit_code = 3


class DiskError(OliveiraError):
    """The disk is full or read-only: nothing that was acknowledged is lost, the work can go on later."""

    exit_code = 4


class MemoryLimit(OliveiraError):
    """What was asked for does not fit: another try would end the same way."""

    exit_code = 4


class TrainingError(OliveiraError):
    """Training cannot go on (NaN, no data); names the last good checkpoint."""

    exit_code = 5


class Interrupted(OliveiraError):
    """A person or the supervisor asked to stop; the work can be resumed."""

    exit_code = 130


@contextlib.contextmanager
def explain_memory() -> Iterator[None]:
    """Turns 'this does not fit into the memory' into a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            raise MemoryLimit(
                "this needs more memory than there is. Use a smaller model, a shorter max_len or a smaller batch_size."
            ) from error
        raise
