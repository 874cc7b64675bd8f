"""The command `anyws`: its arguments, `anyws echo` and `anyws connect`.

Messages go to standard output and everything else to standard error, so that output can be piped.
What a person did wrong, or the network, is one line that begins with ``anyws:``; a traceback is a
bug.

Exit codes: 0 for what went as asked, being interrupted in the middle included; 1 for what did not;
2 for arguments that make no sense; 130 for an interrupt before anything had begun.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import socket
import ssl
import sys
import unicodedata
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING

import anyio
from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    create_memory_object_stream,
    create_task_group,
    from_thread,
    open_signal_receiver,
    sleep,
    sleep_forever,
)
from anyio.lowlevel import current_token

from ._client import open_websocket
from ._close import CloseCode
from ._demo import demo
from ._errors import ConnectionClosed, WebSocketError
from ._protocol.url import parse_url
from ._server import open_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.lowlevel import EventLoopToken
    from anyio.streams.memory import MemoryObjectSendStream

    from ._close import Closure
    from ._websocket import WebSocket

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# Of a binary message; more does not help a person.
_SHOWN_BYTES = 256
# A conversation that ends with one of these went as asked.
_ORDINARY_CODES = {CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, those of the process by default; return its exit code."""
    options = _parser().parse_args(arguments)
    if options.backend not in anyio.get_available_backends():
        return _complain(
            f"the backend {options.backend!r} is not installed: "
            f"python -m pip install 'anyio-websocket[{options.backend}]'"
        )
    # What a peer sent may not fit the terminal's encoding.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = INTERRUPTED
    try:
        code = anyio.run(partial(_COMMANDS[options.command], options), backend=options.backend)
    # Groups, since it may hit a task of ours, or one of AnyIO's.
    except* KeyboardInterrupt:
        pass
    except* BrokenPipeError:
        _stop_printing()
        code = 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anyws", description="WebSocket on asyncio and Trio, from the command line."
    )
    parser.add_argument("--version", action="version", version=f"anyws {_version()}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--backend",
        choices=anyio.get_all_backends(),
        default="asyncio",
        help="what runs the command (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    add("demo", "Show what it does, over loopback, and check that it does.")

    echo = add("echo", "Serve WebSockets and send every message back, until Ctrl-C.")
    echo.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    echo.add_argument(
        "--port", type=_port, default=8080, help="0 lets the system choose (default: %(default)s)"
    )

    connect = add("connect", "Send lines as text messages, and print the messages that come.")
    connect.add_argument("url", metavar="URL", help="ws:// or wss://")
    connect.add_argument(
        "--subprotocol",
        action="append",
        default=[],
        metavar="NAME",
        help="to offer; may come again, the preferred first",
    )
    connect.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        help="to send with the request; may come again",
    )
    connect.add_argument("--origin", help="the Origin header")
    connect.add_argument(
        "--wait",
        type=_seconds,
        default=0.5,
        metavar="SECONDS",
        help="for answers, between the end of input and closing (default: %(default)s)",
    )
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("anyio-websocket")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is no header: write 'NAME: VALUE'")
    return name, value.strip()


def _complain(message: str) -> int:
    _note(f"anyws: {message}")
    return 1


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop_printing() -> None:
    # Nobody reads on, as after `| head`; the interpreter's last flush has to go somewhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- anyws demo ---


async def _demo(options: argparse.Namespace) -> int:
    return await demo(options.backend)


# --- anyws echo ---


async def _echo(options: argparse.Namespace) -> int:
    try:
        with CancelScope() as scope, _signals() as signals:
            async with open_server(_send_back, host=options.host, port=options.port) as server:
                print(f"echo server at {server.url}, until Ctrl-C", flush=True)
                await anext(signals)
                # The short way out: Close 1001, and a second for the clients to answer.
                scope.cancel()
                await sleep_forever()
    except OSError as error:
        return _complain(
            f"cannot listen at {options.host}, port {options.port}: {_reason_of(error)}"
        )
    return 0


async def _send_back(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


# --- anyws connect ---


async def _connect(options: argparse.Namespace) -> int:
    try:
        opening = open_websocket(
            options.url,
            subprotocols=options.subprotocol,
            headers=options.header,
            origin=options.origin,
        )
    except ValueError as error:
        return _complain(str(error))
    with _signals() as signals:
        async with create_task_group() as task_group:
            scope = CancelScope()
            task_group.start_soon(_cancel_at_signal, signals, scope)
            code = await _converse(opening, options, scope)
            task_group.cancel_scope.cancel()
    return code


async def _cancel_at_signal(signals: AsyncIterator[object], scope: CancelScope) -> None:
    await anext(signals)
    scope.cancel()


async def _converse(
    opening: AbstractAsyncContextManager[WebSocket],
    options: argparse.Namespace,
    interrupt: CancelScope,
) -> int:
    """Connect, talk and close; return the exit code. What it raises is a bug."""
    place = parse_url(options.url).safe
    connection: WebSocket | None = None
    # Interrupted, it ends as any cancelled program does: Close 1001, and a second for the answer.
    with interrupt:
        try:
            async with opening as ws:
                connection = ws
                _note(f"connected to {place}{_agreed(ws)}")
                await _talk(ws, options.wait)
        except WebSocketError as error:
            return _complain(str(error))
        except ssl.SSLError as error:
            return _complain(f"TLS with {place} failed: {_reason_of(error)}")
        except OSError as error:
            return _complain(f"cannot connect to {place}: {_reason_of(error)}")
    if connection is None or connection.closure is None:
        return INTERRUPTED
    return _report_end(connection.closure)


def _agreed(ws: WebSocket) -> str:
    subprotocol = [] if ws.subprotocol is None else [f"subprotocol {ws.subprotocol}"]
    return "".join(f", {part}" for part in [*subprotocol, *ws.extensions])


def _report_end(closure: Closure) -> int:
    """Print how it ended, and return the exit code for that."""
    words = closure.cause
    if closure.first == "ours":
        answer = "did not answer" if closure.received is None else f"answered {closure.received}"
        words += f"; the peer {answer}"
    _note(words)
    decisive = closure.sent if closure.first == "ours" else closure.received
    return 0 if closure.clean and decisive and decisive.code in _ORDINARY_CODES else 1


async def _talk(ws: WebSocket, wait: float) -> None:
    """Send lines and print messages until either end has no more. Raises no `ConnectionClosed`."""
    async with create_task_group() as task_group:
        task_group.start_soon(_send_lines, ws, wait, task_group.cancel_scope)
        await _print_messages(ws)
        task_group.cancel_scope.cancel()


async def _print_messages(ws: WebSocket) -> None:
    try:
        async for message in ws:
            print(shown(message), flush=True)
    except ConnectionClosed:
        pass  # told by the closure
    except BrokenPipeError:
        _stop_printing()  # and close in order


async def _send_lines(ws: WebSocket, wait: float, conversation: CancelScope) -> None:
    sender, lines = create_memory_object_stream[bytes]()
    with sender, lines:
        # A thread of its own, which nobody waits for: it may be in a read that never returns.
        Thread(target=_read_lines, args=(sender, current_token()), daemon=True).start()
        async for line in lines:
            try:
                await ws.send_text(line)
            except ValueError as error:
                _note(f"anyws: not sent: {error}")
            except ConnectionClosed:
                return  # whoever receives learns it too
    await sleep(wait)
    conversation.cancel()


def _read_lines(lines: MemoryObjectSendStream[bytes], token: EventLoopToken) -> None:
    """Be the thread that reads standard input."""
    try:
        try:
            for line in _standard_input():
                from_thread.run(lines.send, line, token=token)
        except OSError as error:
            _note(f"anyws: cannot read standard input: {_reason_of(error)}")
        from_thread.run_sync(lines.close, token=token)
    except (BrokenResourceError, ClosedResourceError, RuntimeError):
        pass  # the conversation is over, or the event loop


def _standard_input() -> Iterator[bytes]:
    if sys.stdin is None:
        return
    # Not through sys.stdin: while this waits in a read it holds a lock, which the end of the
    # interpreter needs for that object.
    with open(sys.stdin.fileno(), "rb", closefd=False) as file:
        for line in file:
            yield line.removesuffix(b"\n").removesuffix(b"\r")


# --- What they share ---


@contextmanager
def _signals() -> Iterator[AsyncIterator[object]]:
    """Give the signals that ask for an end."""
    with ExitStack() as stack:
        signals: AsyncIterator[object] = _nothing()
        try:
            signals = stack.enter_context(open_signal_receiver(signal.SIGINT, signal.SIGTERM))
        except NotImplementedError:
            pass  # asyncio on Windows: there Ctrl-C cancels the main task, and `main` is told
        yield signals


async def _nothing() -> AsyncIterator[object]:
    await sleep_forever()
    yield None


def shown(message: str | bytes) -> str:
    """Return a message as one line that a terminal takes for text and nothing else.

    Escape sequences in what a peer sends could rewrite the screen, or type on the user's behalf.
    """
    if isinstance(message, str):
        return printable(message)
    cut = f" and {len(message) - _SHOWN_BYTES} more" if len(message) > _SHOWN_BYTES else ""
    return f"binary, {len(message)} bytes: {message[:_SHOWN_BYTES].hex(' ')}{cut}"


def printable(text: str) -> str:
    """Return the text with what would steer the terminal escaped as in a string literal."""
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    # Controls, marks that reverse or hide text, ends of lines; joiners belong to scripts and emoji.
    category = unicodedata.category(character)
    return category in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in "\u200c\u200d"


def _reason_of(error: OSError) -> str:
    """Return what went wrong, without numbers and without the layers that it came through."""
    cause = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason.replace("_", " ").lower() if error.reason else str(error)
    if isinstance(cause, OSError):
        return _reason_of(cause)
    if isinstance(cause, ExceptionGroup):
        reasons = [_reason_of(one) for one in cause.exceptions if isinstance(one, OSError)]
        return ", ".join(dict.fromkeys(reasons))
    if isinstance(error, socket.gaierror):
        return str(error.args[-1])  # the resolver's own words
    if error.errno is not None:
        return os.strerror(error.errno)
    return error.strerror or str(error)


_COMMANDS: dict[str, Callable[[argparse.Namespace], Coroutine[None, None, int]]] = {
    "demo": _demo,
    "echo": _echo,
    "connect": _connect,
}
