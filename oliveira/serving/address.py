"""Where a server listens, as a socket and as text: IPv6 addresses stand in brackets."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket

from oliveira.errors import UserError

SILENCE_MILLISECONDS = 30_000


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises `UserError` when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError, ValueError):  # unknown name, bad name, impossible port
        raise UserError(f"serve.host = {host!r} is not an address of this machine. Use 127.0.0.1.") from None
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by every connection: who takes nothing for so long is gone
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MILLISECONDS)
    try:
        opened.bind(address)
        opened.listen(2048)
    except (OSError, OverflowError) as error:
        opened.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host} is taken by another program. Choose another --port, or 0 for any."
            ) from None
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(f"cannot listen on {host} port {port}: {reason}. Choose another --host or --port.") from None
    return opened


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def authority(host: str, port: int) -> str:
    """host:port as it stands in an address: `[::1]:8420`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """Where a program on this machine finds a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
