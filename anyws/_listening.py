"""Where a server listens: hosts and a port become sockets, and those an address to reach it at."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import Any, Final, TypeAlias, TypeVar

from ._config import check_range
from ._transports.errors import explain_lookup

__all__ = ["Hosts", "Listening", "Place", "check_listening", "inherited_sockets"]

Hosts: TypeAlias = str | Iterable[str] | None
T = TypeVar("T")

# Connections that wait to be accepted; the system has a limit of its own.
_BACKLOG: Final = 65536
# How often the system is asked for a port that is free on each of several addresses.
_PORT_ATTEMPTS: Final = 10
# The first file descriptor that systemd passes: SD_LISTEN_FDS_START.
_FIRST_PASSED: Final = 3
# Where a socket on all interfaces is reached from its own machine.
_REACHABLE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


class Place:
    """The hosts and the port that a program has named.

    hosts:
        Names and addresses; ``None`` stands for all interfaces.
    """

    def __init__(self, host: Hosts, port: int) -> None:
        check_range("port", port, 0, 65535)
        self.hosts: tuple[str | None, ...] = _checked(host)
        self._port = port

    def addresses_of(self, host: str | None) -> list[Any]:
        """Return what the system has for one of the hosts, which may take its time.

        Raises socket.gaierror.
        """
        try:
            return self._ask(host, socket.AI_ADDRCONFIG)
        except socket.gaierror as error:
            explain_lookup(error, host)
            raise

    def known_addresses_of(self, host: str | None) -> list[Any]:
        """Return the same at once; nothing for a name, which has to be looked up."""
        try:
            return self._ask(host, socket.AI_NUMERICHOST if host else socket.AI_ADDRCONFIG)
        except socket.gaierror:
            return []

    def _ask(self, host: str | None, flags: int) -> list[Any]:
        flags |= socket.AI_PASSIVE
        return socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM, flags=flags)

    def listen(self, addresses: Iterable[Any]) -> list[socket.socket]:
        """Return sockets that listen on each of these addresses, all on one port.

        Raises OSError, which names the address.
        """
        distinct = list(dict.fromkeys((family, place) for family, _, _, _, place in addresses))
        attempts = _PORT_ATTEMPTS
        while True:
            attempts -= 1
            try:
                return self._listen_on(distinct)
            except OSError as error:
                # The port that is free on the first address need not be so on the others.
                if self._port or error.errno != errno.EADDRINUSE or not attempts:
                    raise

    def _listen_on(self, addresses: list[tuple[int, Any]]) -> list[socket.socket]:
        listening: list[socket.socket] = []
        try:
            for family, address in addresses:
                if listening and not self._port:
                    # The system has chosen for the first.
                    address = (address[0], listening[0].getsockname()[1], *address[2:])
                sock = socket.socket(family, socket.SOCK_STREAM)
                listening.append(sock)
                _listen_at(sock, address)
        except BaseException:
            for sock in listening:
                sock.close()
            raise
        return listening


def _listen_at(sock: socket.socket, address: Any) -> None:
    sock.setblocking(False)
    # On Windows, SO_REUSEADDR would share the port with whoever has it.
    exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    sock.setsockopt(socket.SOL_SOCKET, exclusive or socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        error.strerror = f"cannot listen at {address[0]} port {address[1]}: {error.strerror}"
        raise


def _checked(host: Hosts) -> tuple[str | None, ...]:
    hosts: Iterable[Any] = [host] if host is None or isinstance(host, str) else host
    checked: tuple[Any, ...]
    try:
        checked = tuple(None if one == "*" else one for one in hosts)
    except TypeError:
        checked = (host,)
    for one in checked:
        if one is not None and not isinstance(one, str):
            raise TypeError(f"host must be a str, several of them, or None, not {host!r}")
    if not checked or "" in checked:
        raise ValueError(f'{host!r} is no host to listen at: all interfaces are "*" or None')
    return checked


def check_listening(given: T) -> T:
    """Return what a program gave to accept from, or raise what is wrong with it, if it is a socket.

    Raises ValueError.
    """
    if isinstance(given, socket.socket):
        if given.fileno() < 0:
            raise ValueError("a socket to listen at is closed already")
        if given.type != socket.SOCK_STREAM:
            raise ValueError(f"{given!r} is no socket to listen at: its type is not SOCK_STREAM")
        if not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"{given!r} does not listen: bind it, and call its listen() first")
    return given


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that this process was started with, in their order.

    They are passed as systemd does it (`sd_listen_fds(3)`): ``LISTEN_FDS`` says how many, from
    file descriptor 3 on, and ``LISTEN_PID`` for which process. A server takes them as
    ``listeners=``, one of `anyws.sync` as ``sockets=``. They listened before this process began,
    and may go on when it has ended, so that no client is refused while it is restarted.

    The list is empty where none were passed, or to another process, as on Windows always. The
    variables are taken out of the environment, so that no process started from here believes that
    they are its own: a second call returns nothing.

    :raises ValueError: the variables are no numbers, or what was passed is no listening socket
        (the fault of whoever started the process)
    :raises OSError: what was passed is no socket
    """
    given = {name: os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES")}
    if not given["PID"] or not given["FDS"]:
        return []
    for name in ("PID", "FDS"):
        if not (given[name].isascii() and given[name].isdecimal()):
            raise ValueError(f"LISTEN_{name} is {given[name]!r}, and should be a number")
    if int(given["PID"]) != os.getpid():
        return []
    numbers = range(_FIRST_PASSED, _FIRST_PASSED + int(given["FDS"]))
    sockets: list[socket.socket] = []
    try:
        for number in numbers:
            os.set_inheritable(number, False)
            sockets.append(socket.socket(fileno=number))
            check_listening(sockets[-1])
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


class Listening:
    """What a server tells of where it listens."""

    def __init__(self, *, secure: bool) -> None:
        self._addresses: list[object] = []  # known also when it listens no more
        self._secure = secure

    @property
    def port(self) -> int:
        """The TCP port that the server listens at (the first one's, where there are several).

        :raises RuntimeError: it listens at none
        """
        return int(self._tcp_address()[1])

    @property
    def url(self) -> str:
        """A URL that reaches the server from its own machine."""
        host, port = self._tcp_address()[:2]
        host = _REACHABLE.get(host, host)
        host = f"[{host}]" if ":" in host else host
        return f"{'wss' if self._secure else 'ws'}://{host}:{port}/"

    def _tcp_address(self) -> tuple[Any, ...]:
        for address in self._addresses:
            if isinstance(address, tuple):
                return address
        raise RuntimeError("the server listens at no TCP port")
