"""`anyws serve`: the handlers of a program, served by this process until it is asked for the end.

Signals ask, and so does a supervisor, if there is one: through a socket whose other end it holds.
That ends when the supervisor does, and with it the worker.
"""

from __future__ import annotations

import json
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import create_task_group, wait_readable

from .._asked import Asked, receive_signals
from .._listening import Place, inherited_sockets
from .._server import open_server
from .late import end_at_signals, hold_signals, note_signals
from .loading import CannotServe, load
from .telling import announce, complain, reason_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable

    from .._server import Server
    from .loading import Program

__all__ = [
    "HURRY",
    "RETIRE",
    "STOP",
    "listen",
    "places",
    "run_here",
    "serve",
    "serve_here",
    "serve_program",
]

# What a supervisor says to a worker; a line of JSON is what the worker says when it serves.
STOP, RETIRE, HURRY = b"s", b"r", b"h"

_HOSTS = ["127.0.0.1"]
_PORT = 8080


def run_here(function: Callable[[], Awaitable[int]], backend: str) -> int:
    """Run it to its end, on asyncio, uvloop or Trio."""
    if backend == "uvloop":
        return anyio.run(function, backend="asyncio", backend_options={"use_uvloop": True})
    return anyio.run(function, backend=backend)


def serve_here(options: argparse.Namespace) -> int:
    """Serve with no supervisor, and return the exit code."""
    return serve_program(options, lambda: listen(options), None)


def serve_program(
    options: argparse.Namespace,
    sockets: Callable[[], list[socket.socket]],
    control: socket.socket | None,
) -> int:
    """Load the program, and serve it on these sockets; return the exit code."""
    try:
        program = load(options)
        process = "" if control is None else "%(process)d "
        # A program that has configured logging itself is left alone.
        logging.basicConfig(
            level=options.log_level.upper(),
            format=f"%(asctime)s {process}%(levelname)s %(name)s: %(message)s",
        )
        listening = sockets()
        main = partial(serve, program, listening, options, control)
        code = run_here(main, options.backend)
    except CannotServe as error:
        return complain(f"cannot serve: {error}")
    end_at_signals(code)
    return code


def listen(options: argparse.Namespace) -> list[socket.socket]:
    """Return the sockets that this process was started with, or listen at the host and port.

    Raises CannotServe.
    """
    try:
        inherited = inherited_sockets()
    except (ValueError, OSError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        raise CannotServe(f"the sockets that LISTEN_FDS names are no use: {reason}") from None
    if inherited:
        if options.host is not None or options.port is not None:
            for sock in inherited:
                sock.close()
            raise CannotServe("LISTEN_FDS says where to listen, and --host and --port do, too")
        return inherited
    hosts = options.host or _HOSTS
    port = _PORT if options.port is None else options.port
    try:
        place = Place(hosts, port)
        return place.listen(one for host in place.hosts for one in place.addresses_of(host))
    except ValueError as error:
        raise CannotServe(str(error)) from None
    except OSError as error:
        raise CannotServe(
            f"cannot listen at {', '.join(hosts)}, port {port}: {reason_of(error)}"
        ) from None


def places(sockets: list[socket.socket], options: argparse.Namespace) -> str:
    """Return where these sockets listen, for a person."""
    scheme = "ws" if options.cert is None else "wss"
    words = []
    for sock in sockets:
        address = sock.getsockname()
        if sock.family == socket.AF_INET6:
            words.append(f"{scheme}://[{address[0]}]:{address[1]}/")
        elif sock.family == socket.AF_INET:
            words.append(f"{scheme}://{address[0]}:{address[1]}/")
        else:
            words.append(repr(address))
    return ", ".join(words)


async def serve(
    program: Program,
    sockets: list[socket.socket],
    options: argparse.Namespace,
    control: socket.socket | None,
) -> int:
    """Serve until asked for the end, and return the exit code. Raises CannotServe.

    When it returns, signals are held back: `end_at_signals` is to follow.
    """
    where = places(sockets, options)
    try:
        opening = open_server(
            program.handlers,
            default=program.default,
            listeners=sockets,
            ssl_context=program.ssl_context,
            on_request=program.on_request,
            origins=program.origins,
            config=program.config,
        )
    except (TypeError, ValueError) as error:
        for sock in sockets:
            sock.close()
        raise CannotServe(str(error)) from None
    with receive_signals() as signals:
        async with opening as server:
            asked = Asked(server)
            async with create_task_group() as task_group:
                task_group.start_soon(asked.listen_to, signals)
                if control is None:
                    announce(f"serving at {where}")
                else:
                    task_group.start_soon(_obey, control, asked)
                    _say_ready(control, server)
                await asked.close_server()
                task_group.cancel_scope.cancel()
        hold_signals()
    note_signals()
    return int(asked.has_cut)


def _say_ready(control: socket.socket, server: Server) -> None:
    # Whoever waits for this process to end has to know how long that may take.
    words = json.dumps({"drain_timeout": server._config.drain_timeout})
    try:
        control.send(f"{words}\n".encode())
    except OSError:
        pass  # the supervisor has gone; whoever obeys it learns that


async def _obey(control: socket.socket, asked: Asked) -> None:
    """Do what the supervisor says, until it has gone, or this is cancelled."""
    said = b"?"
    while said:
        await wait_readable(control)
        try:
            said = control.recv(64)
        except BlockingIOError:
            continue
        except OSError:
            said = b""
        if RETIRE in said:
            asked.end(retire=True)
        if STOP in said or not said:
            asked.end()
        if HURRY in said:
            asked.hurry()
