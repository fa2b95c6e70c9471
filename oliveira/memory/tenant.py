"""What keeps tenants apart in the attention cache: a salt for each, made from a secret of this server.

Without it a tenant could find out by the time to the first token what others have sent (CVE-2025-46570), or be given
numbers that another has stored. The salt never comes from a request.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from oliveira.errors import CorruptError
from oliveira.files import explain_disk, fsync_path, make_folder

_SECRET = "attention-cache.secret"
_BYTES = 32


def tenant_salt(home: Path, tenant: str) -> bytes:
    """32 bytes that only this server can make for this tenant: HMAC-SHA-256 of a secret file in `home` and the name.

    The secret is made once, readable by its owner only. Raises `CorruptError` if it is not 32 bytes long, `DiskError`.
    """
    path = home / _SECRET
    with explain_disk(path):
        if not path.exists():
            _make_secret(path)
        secret = path.read_bytes()
    if len(secret) != _BYTES:
        raise CorruptError(
            f"{path} has {len(secret)} bytes, not {_BYTES}. Delete it: the attention cache then starts empty."
        )
    return hmac.digest(secret, tenant.encode(), "sha256")


def _make_secret(path: Path) -> None:
    """Whole or not there, and never a second one: the first of two processes to link it wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    make_folder(path.parent)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
