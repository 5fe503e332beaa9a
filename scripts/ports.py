"""Ports of loopback: a free one, and who has a taken one."""

from __future__ import annotations

import socket

import psutil


class PortTakenError(RuntimeError):
    """Somebody else listens there; the message says who and what to do."""


def free_port() -> int:
    """Find a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def refuse_taken_port(port: int, name: str) -> None:
    """Refuse a port that somebody listens on, and say who.

    :param name: the variable of `make` that chooses another one.
    :raises PortTakenError: when it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTakenError(
                f"port {port} is taken{_who_listens(port)}: {error.strerror}."
                f" Take another one: make up {name}={port + 1}"
            ) from error


def _who_listens(port: int) -> str:
    try:
        listeners = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.laddr and connection.laddr.port == port and connection.pid
        ]
        return f" by process {listeners[0]} ({psutil.Process(listeners[0]).name()})"
    except (psutil.Error, IndexError):  # the system does not tell everybody
        return ""
