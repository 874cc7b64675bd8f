"""`anyws connect`: lines of standard input become messages, and messages lines of standard output."""

from __future__ import annotations

import ssl
import sys
from threading import Thread
from typing import TYPE_CHECKING

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    create_memory_object_stream,
    create_task_group,
    from_thread,
    sleep,
)
from anyio.lowlevel import current_token

from .._asked import receive_signals
from .._client import open_websocket
from .._close import CloseCode
from .._errors import ConnectionClosed, WebSocketError
from .._protocol.url import parse_url
from .telling import INTERRUPTED, complain, note, reason_of, shown, stop_printing

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

    from anyio.lowlevel import EventLoopToken
    from anyio.streams.memory import MemoryObjectSendStream

    from .._close import Closure
    from .._websocket import WebSocket

__all__ = ["connect"]

# A conversation that ends with one of these went as asked.
_ORDINARY_CODES = {CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED}


async def connect(options: argparse.Namespace) -> int:
    try:
        opening = open_websocket(
            options.url,
            subprotocols=options.subprotocol,
            headers=options.header,
            origin=options.origin,
        )
    except ValueError as error:
        return complain(str(error))
    with receive_signals() as signals:
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
                note(f"connected to {place}{_agreed(ws)}")
                await _talk(ws, options.wait)
        except WebSocketError as error:
            return complain(str(error))
        except ssl.SSLError as error:
            return complain(f"TLS with {place} failed: {reason_of(error)}")
        except OSError as error:
            return complain(f"cannot connect to {place}: {reason_of(error)}")
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
    note(words)
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
        stop_printing()  # and close in order


async def _send_lines(ws: WebSocket, wait: float, conversation: CancelScope) -> None:
    sender, lines = create_memory_object_stream[bytes]()
    with sender, lines:
        # A thread of its own, which nobody waits for: it may be in a read that never returns.
        Thread(target=_read_lines, args=(sender, current_token()), daemon=True).start()
        async for line in lines:
            try:
                await ws.send_text(line)
            except ValueError as error:
                note(f"anyws: not sent: {error}")
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
            note(f"anyws: cannot read standard input: {reason_of(error)}")
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
