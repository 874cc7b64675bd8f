"""Promises, each with a small change of the package that breaks it. `run.py` says what they are for.

The old text occurs exactly once in its file; where it no longer does, the mutant has to be written
anew, or goes with the code that it was a mutant of. A mutant that survives means that the harness is
blind: give that another oracle or another scenario, and never a mutant that is easier to see.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KINDS", "MUTANTS", "SOCKET_LIKE", "TCP", "TIMED_KINDS", "Mutant"]

MEMORY, SOCKET_LIKE, TCP, TLS = "memory", "socket-like", "tcp", "tls"
NATIVE = "native"
KINDS = (MEMORY, SOCKET_LIKE, TCP, TLS, NATIVE)
# Where time is the machine's.
TIMED_KINDS = (TCP, TLS, NATIVE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change.

    breaks:
        The promise that it breaks, and where that is made: a section of the design, the id of a
        hazard.
    also:
        Further changes of the same file, where one is not enough: old text and new text.
    scenario, kind:
        A part of the names of the scenarios, and the kind of stream, that are to notice. They are
        tried first; what they do not kill meets everything else.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    also: tuple[tuple[str, str], ...] = ()
    scenario: str = ""
    kind: str = MEMORY


WRITING = [
    Mutant(
        name="a sender writes in its own task",
        breaks="3.2, H1: a cancelled send never tears a frame",
        file="_transports/stream.py",
        old="return self._writer.write(data, finished=finished, compress=compress)",
        new="""return self._stream.send(
            self.protocol.encode(data, finished=finished, compress=compress)
        )""",
        scenario="send large",
    ),
    Mutant(
        name="a write that is cut short by a cancellation is followed by others",
        breaks="3.2, H1: what a cancelled write had begun is finished, or the connection breaks",
        file="_transports/writer.py",
        old="""                self._queue.remove(outgoing)
            raise""",
        new="""                self._queue.remove(outgoing)
            elif self.writing_since is not None:
                self.interrupt()
            raise""",
        also=(
            (
                """    def hurry(self, cause: str) -> None:""",
                """    def interrupt(self) -> None:
        self._write_scope.cancel()

    def hurry(self, cause: str) -> None:""",
            ),
            (
                """            await self._stream.send(bytes(piece))
""",
                """            with CancelScope() as self._write_scope:
                await self._stream.send(bytes(piece))
            if self._write_scope.cancelled_caught:
                break
""",
            ),
        ),
        scenario="send large",
    ),
    Mutant(
        name="the writer is cancelled with the owner of the connection",
        breaks="3.1: library tasks are shielded, so that a Close can still go out",
        file="_transports/writer.py",
        old="self._scope = scope = CancelScope(shield=True)",
        new="self._scope = scope = CancelScope()",
        scenario="the body (",
    ),
    Mutant(
        name="a cancelled sender ends the connection",
        breaks="3.2: a cancelled send leaves the connection as it was where the peer reads on",
        file="_transports/writer.py",
        old="""                self._queue.remove(outgoing)
            raise""",
        new="""                self._queue.remove(outgoing)
            else:
                self.cut()
            raise""",
        scenario="send large",
    ),
    Mutant(
        name="a cancelled sender leaves its message in the line",
        breaks="3.2, H3: cancelled before its first byte is out, nothing was sent",
        file="_transports/writer.py",
        old="""            if self._queue is not None and outgoing in self._queue:
                self._queue.remove(outgoing)
            raise""",
        new="""            raise""",
        scenario="send behind another",
    ),
    Mutant(
        name="a message is compressed when it is put in line",
        breaks="3.2, H2: a withdrawn message leaves the compression context as it was",
        file="_transports/writer.py",
        old="""            outgoing = _Outgoing(data, finished, compress)
            if self._queue""",
        new="""            frame = self._protocol.encode(data, finished=finished, compress=compress)
            outgoing = _Outgoing(frame, finished, compress)
            if self._queue""",
        also=(
            (
                """            frame = protocol.encode(
                outgoing.data, finished=outgoing.finished, compress=outgoing.compress
            )
""",
                """            frame = outgoing.data
""",
            ),
        ),
        scenario="compressed",
    ),
    Mutant(
        name="a write may stall for ever",
        breaks="3.5, H18: a write that makes no progress breaks the connection",
        file="_transports/stream.py",
        old="        if now < since + timeout:\n",
        new="""        if now >= since + timeout:
            return math.inf
        if now < since + timeout:
""",
        scenario="a stalled write",
    ),
]

RECEIVING = [
    Mutant(
        name="receive takes a message and then lets a cancellation in",
        breaks="3.2, H16: a cancelled receive loses no message",
        file="_websocket.py",
        old="            message = inbox.take()\n",
        new="""            message = inbox.take()
            await checkpoint()
""",
        scenario="receive whole",
    ),
    Mutant(
        name="receive does not look whether it is cancelled",
        breaks="3.4, H14: every operation is a checkpoint for cancellation",
        file="_websocket.py",
        old="            return self._checkpoint_if_cancelled()\n",
        new="            return self._nothing()\n",
        also=(
            (
                "    def _turn(self) -> Awaitable[None]:\n",
                "    async def _nothing(self) -> None:\n        pass\n\n"
                "    def _turn(self) -> Awaitable[None]:\n",
            ),
        ),
        scenario="receive what was queued",
    ),
    Mutant(
        name="receive never lets other tasks run",
        breaks="3.4, H14: a peer that sends without pause must not starve other tasks",
        file="_websocket.py",
        old="        if self._receives_in_turn < MAX_RECEIVES_PER_TURN:\n",
        new="        if self._receives_in_turn < MAX_RECEIVES_PER_TURN**9:\n",
        scenario="flood",
    ),
    Mutant(
        name="a cancelled receive leaves the connection busy",
        breaks="3.2: after a cancelled receive, the next gets the message; no flag outlives a wait",
        file="_websocket.py",
        old="""        finally:
            self._receiving = False
        self._transport.taken()
""",
        new="""        except ConnectionError:
            raise
        self._receiving = False
        self._transport.taken()
""",
        scenario="receive whole",
    ),
    Mutant(
        name="a cancelled wait for a message in pieces leaves the connection busy",
        breaks="3.2: no flag outlives a cancelled wait",
        file="_fragments.py",
        old="""            inbox.undo_streaming()
            ws._receiving = False
""",
        new="""            inbox.undo_streaming()
""",
        scenario="receive streamed",
    ),
    Mutant(
        name="a cancelled wait for a message in pieces drops what is there of it",
        breaks="3.2, H16: a cancelled receive loses neither a message nor a fragment",
        file="_fragments.py",
        old="            inbox.undo_streaming()\n",
        new="            inbox.stop_streaming()\n",
        scenario="receive streamed",
    ),
    Mutant(
        name="a piece of a message is taken before a cancellation is let in",
        breaks="3.2, H16: within the block of a message in pieces, a cancelled wait loses none",
        file="_fragments.py",
        old="        piece = inbox.take_piece()\n",
        new="""        piece = inbox.take_piece()
        await checkpoint_if_cancelled()
""",
        scenario="pieces",
    ),
    Mutant(
        name="a chunk is read and then a cancellation let in",
        breaks="3.2, H17: what arrives together with the cancellation is not lost",
        file="_transports/stream.py",
        old="            data = await self._receive(CHUNK_FRAME_BYTES)\n",
        new="""            data = await self._receive(CHUNK_FRAME_BYTES)
            await checkpoint()
""",
        scenario="receive whole",
        kind=SOCKET_LIKE,
    ),
    Mutant(
        name="the attendant believes for ever that a cancelled receiver reads",
        breaks="3.2, 3.4: after a cancelled receive somebody reads again: the answer to our Close",
        file="_transports/stream.py",
        old="""                self._read_cancelled = False
            finally:
                self._inline_reading = False
""",
        new="""                self._read_cancelled = False
                self._inline_reading = False
            finally:
""",
        scenario="the body (",
        kind=SOCKET_LIKE,
    ),
    Mutant(
        name="nothing is read from a socket while nobody receives",
        breaks="3.4: pings are answered and a Close is noticed while nobody is in receive",
        file="_transports/stream.py",
        old="                receives = self._receives\n",
        new="                pass\n",
        scenario="keepalive",
        kind=SOCKET_LIKE,
    ),
    Mutant(
        name="nothing is read from a plain stream while nobody receives",
        breaks="3.4: pings are answered and a Close is noticed while nobody is in receive",
        file="_transports/stream.py",
        old="        return self.protocol.wants_room\n",
        new="        return not self._readers_wanted\n",
        scenario="keepalive",
    ),
]

FRAGMENTS = [
    Mutant(
        name="a message in fragments that is cut short is ended as if it were whole",
        breaks="3.2, H21: half a message must not look like a whole one",
        file="_fragments.py",
        old='                ws._begin_close(CloseCode.INTERNAL_ERROR, "a message was left unfinished")\n',
        new="""                with __import__("anyio").CancelScope(shield=True):
                    await ws._transport.write(self._type(), finished=True, compress=None)
""",
        scenario="send from an iterator",
    ),
    Mutant(
        name="a message in fragments that is cut short keeps the line for itself",
        breaks="3.2: no lock outlives a cancelled wait",
        file="_fragments.py",
        old="""            ws._fragmented = None
            self._ending.__exit__(None, None, None)
            self.ended.set()
""",
        new="""            if exc is None:
                ws._fragmented = None
                self._ending.__exit__(None, None, None)
                self.ended.set()
""",
        scenario="send from an iterator",
    ),
    Mutant(
        name="who waits for a message in fragments to end outwaits the connection",
        breaks="3.3, H24: a send that cannot be made any more says so",
        file="_fragments.py",
        old="        self._ending.__enter__()\n",
        new="",
        also=(("            self._ending.__exit__(None, None, None)\n", ""),),
        scenario="while a message is under way",
    ),
]

CLOSING = [
    Mutant(
        name="the grace is not shielded",
        breaks="3.2, H5: the peer's answer to our 1001 is awaited, for a grace",
        file="_connection.py",
        old="with CancelScope(shield=shield):",
        new="with CancelScope():",
        scenario="the body (",
    ),
    Mutant(
        name="no Close goes out on cancellation",
        breaks="3.3: a cancelled body sends 1001",
        file="_connection.py",
        old="                with CancelScope(shield=shield):\n",
        new="""                if was_cancelled:
                    self.transport.abort("the body was cancelled", by_us=True)
                with CancelScope(shield=shield):
""",
        scenario="the body (",
    ),
    Mutant(
        name="a cancelled body says 1000",
        breaks="3.3: a cancelled body sends 1001",
        file="_connection.py",
        old="code = CloseCode.INTERNAL_ERROR if crashed else CloseCode.GOING_AWAY",
        new="""code = CloseCode.INTERNAL_ERROR if crashed else CloseCode.GOING_AWAY
                code = CloseCode.NORMAL if was_cancelled else code""",
        scenario="the body (",
    ),
    Mutant(
        name="a cancelled body of a server says 1011",
        breaks="3.3: a cancelled body sends 1001",
        file="_connection.py",
        old="crashed = self._protocol.role is Role.SERVER and not was_cancelled",
        new="crashed = self._protocol.role is Role.SERVER",
        scenario="open and leave",
    ),
    Mutant(
        name="a server does not tell that its handler has failed",
        breaks="3.3: an exception sends 1011 on a server",
        file="_connection.py",
        old="crashed = self._protocol.role is Role.SERVER and not was_cancelled",
        new="crashed = False",
        scenario="the body raising",
    ),
    Mutant(
        name="a client tells that its program has failed",
        breaks="3.3: an exception sends 1001 on a client",
        file="_connection.py",
        old="crashed = self._protocol.role is Role.SERVER and not was_cancelled",
        new="crashed = not was_cancelled",
        scenario="the body raising",
    ),
    Mutant(
        name="the grace is as long as an ordinary close",
        breaks="3.2, H4: a cancelled body costs at most one cancel_grace",
        file="_connection.py",
        old="seconds: float | None = self._grace()",
        new="seconds: float | None = self._config.close_timeout",
        scenario="the body with a peer that does not answer",
    ),
    Mutant(
        name="each step of closing has a deadline of its own",
        breaks="3.3: close_timeout is one deadline over everything",
        file="_transports/base.py",
        old="self._close_deadline = min(self._close_deadline, current_time() + seconds)",
        new="self._close_deadline = current_time() + seconds",
        scenario="close in two steps",
    ),
    Mutant(
        name="the deadline ends with the closing handshake",
        breaks="3.3: close_timeout is over shutting TLS and TCP down as well",
        file="_transports/stream.py",
        old="        if now >= self._close_deadline:\n            self._close_deadline = math.inf\n",
        new="""        if now >= self._close_deadline:
            self._close_deadline = math.inf
            if self.protocol.ending.clean:
                return math.inf
""",
        scenario="close by the peer",
    ),
    Mutant(
        name="leaving goes on with its closing handshake when it is cancelled",
        breaks="3.2: a cancellation that finds the closing handshake running costs nothing more",
        file="_connection.py",
        old="""        except BaseException:
            transport.give_up("the closing handshake was cancelled")
            raise


class Opening(ABC):""",
        new="""        finally:
            pass


class Opening(ABC):""",
        scenario="the body within another deadline",
    ),
    Mutant(
        name="a cancelled close leaves the stream open",
        breaks="3.2: a cancelled close has the stream closed all the same, at once",
        file="_websocket.py",
        old="""            self._transport.give_up("the closing handshake was cancelled")
            raise
""",
        new="""            raise
""",
        scenario="close by us",
    ),
    Mutant(
        name="a cancelled close makes no attempt at Close",
        breaks="3.2: aclose in a cancelled scope makes one attempt at Close",
        file="_transports/stream.py",
        old="            hopeless = not self._writer.owes\n",
        new="            hopeless = True\n",
        scenario="close by us",
    ),
    Mutant(
        name="what comes after our Close is kept",
        breaks="3.3: after our own close, messages are discarded, even with a full inbox",
        file="_protocol/protocol.py",
        old="""            # Also after `send_eof`: nobody will take what is still to come.
            self._discard()
""",
        new="""            pass
""",
        scenario="full inbox",
    ),
    Mutant(
        name="a second native cancellation does not end the grace",
        breaks="3.2, H29: a second Task.cancel() ends the grace",
        file="_connection.py",
        old="""        try:
            await transport.closed.wait()
        except BaseException:
            transport.give_up("the closing handshake was cancelled")
            raise
""",
        new="""        while not transport.closed.is_set():
            try:
                await transport.closed.wait()
            except BaseException:
                if _is_cancelled_natively() and asyncio.current_task().cancelling() > 1:
                    continue
                transport.give_up("the closing handshake was cancelled")
                raise
""",
        scenario="cancelled twice",
    ),
    Mutant(
        name="a native cancellation while closing is swallowed",
        breaks="3.2, H29: one that finds the closing handshake running ends it, and leaves",
        file="_connection.py",
        old="""        except BaseException:
            transport.give_up("the closing handshake was cancelled")
            raise


class Opening(ABC):""",
        new="""        except BaseException:
            if _is_cancelled_natively():
                return
            transport.give_up("the closing handshake was cancelled")
            raise


class Opening(ABC):""",
        scenario="the body with a peer that does not answer",
    ),
    Mutant(
        name="a Close that was cut short counts as sent",
        breaks="3.2: the closure says what each end has sent",
        file="_protocol/protocol.py",
        old="if is_cut or any(",
        new="if any(",
        scenario="close by both where ours is torn",
    ),
]

EXCEPTIONS = [
    Mutant(
        name="a cancellation while closing takes the place of the body's exception",
        breaks="3.1, H6: the body's exception leaves as itself",
        file="_connection.py",
        old="""            # Never in the place of the body's own exception.
            if exc is None:
                raise
""",
        new="""            raise
""",
        scenario="has raised",
    ),
    Mutant(
        name="a native cancellation in the last turns takes the place of the body's exception",
        breaks="3.1, H6: the body's exception leaves as itself",
        file="_connection.py",
        old="""        # A native one, which no scope keeps away.
        if exc is None:
            raise
""",
        new="""        raise
""",
        scenario="has raised",
    ),
    Mutant(
        name="an error of closing takes the place of the body's exception",
        breaks="3.1, H6: the body's exception is never masked by an error of closing",
        file="_connection.py",
        old="                    await self._close(code, seconds)\n",
        new="""                    await self._close(code, seconds)
                    if not self._protocol.ending.clean:
                        raise self._protocol.exception()
""",
        scenario="the body with a peer that does not answer",
    ),
    Mutant(
        name="an unanswered Close takes the place of the exception that it was for",
        breaks="3.1, H6: the body's exception is never masked by an error of closing",
        file="_connection.py",
        old="                    await self._close(code, seconds)\n",
        new="""                    await self._close(code, seconds)
                    if not (was_cancelled or self._protocol.ending.clean):
                        raise self._protocol.exception()
""",
        scenario="has raised",
    ),
    Mutant(
        name="the body's exception is given to the library's task group",
        breaks="3.1, H7: __cause__ and __context__ of the body's exception stay as they are",
        file="_connection.py",
        old="await task_group.__aexit__(None, None, None)",
        new="await task_group.__aexit__(type(exc), exc, None)",
        scenario="the body raising",
    ),
    Mutant(
        name="the body's exception leaves in a group of the library's",
        breaks="3.1, H7: never inside an ExceptionGroup of the library's making",
        file="_connection.py",
        old="await task_group.__aexit__(None, None, None)",
        new="await task_group.__aexit__(type(exc), exc, None)",
        also=(("            raise _only(group) from None\n", "            raise\n"),),
        scenario="the body raising",
    ),
]

TASKS = [
    Mutant(
        name="the attendant is cancelled with the owner of the connection",
        breaks="3.1: library tasks are shielded; only the connection's own end ends them",
        file="_transports/stream.py",
        old="self._scope = CancelScope(shield=True)",
        new="self._scope = CancelScope()",
        scenario="the body (",
    ),
    Mutant(
        name="the attendant raises how the stream has ended",
        breaks="3.1, H8: library tasks never raise; the body is not cancelled for them",
        file="_transports/stream.py",
        old="""        except Exception as error:
            _logger.error("anyws failed while reading from a connection", exc_info=error)
""",
        new="",
        also=(
            (
                "            self._end_reading(None)\n",
                "            self._end_reading(None)\n            raise\n",
            ),
        ),
        scenario="the stream ends within a frame",
    ),
    Mutant(
        name="the attendant outlives the connection",
        breaks="3.1: no task outlives the block that owns it, and leaving the block waits for none",
        file="_transports/stream.py",
        old="""        self._scope.cancel()
        self._writer.detach()
""",
        new="""        self._writer.detach()
""",
        scenario="open and leave",
    ),
    Mutant(
        name="a timer outlives the connection",
        breaks="3.1: no timer outlives the block that owns it",
        file="_transports/base.py",
        old="            self._plan(self._close_deadline)\n        self._react()\n",
        new="""            self._plan(self._close_deadline)
            if loop := __import__("asyncio")._get_running_loop():
                loop.call_later(seconds, self._look_around)
        self._react()
""",
        scenario="open and leave",
    ),
]

WATCHING = [
    Mutant(
        name="a cancelled ping leaves its waiter behind",
        breaks="3.2: the waiter of a cancelled ping is gone, and a late pong is ignored",
        file="_websocket.py",
        old="""            try:
                await ping.answered.wait()
            finally:
                self._keepalive.forget(ping)
""",
        new="""            await ping.answered.wait()
""",
        scenario="ping",
    ),
    Mutant(
        name="a ping waits on when the connection has ended",
        breaks="3.4: ping raises when the connection ends before its pong",
        file="_transports/stream.py",
        old="            self._liveness.end()\n",
        new="",
        scenario="ends before its pong",
    ),
    Mutant(
        name="a cancelled wait for the end stays registered",
        breaks="3.1: nothing of a block that was left is kept for as long as the connection lives",
        file="_transports/base.py",
        old="""            yield
        finally:
            self._on_ending.remove(callback)
""",
        new="""            yield
        finally:
            pass
""",
        scenario="work until the peer leaves",
    ),
]

HANDSHAKES = [
    Mutant(
        name="a cancelled handshake of a client leaves the stream open",
        breaks="3.2: the opening handshake, cancelled, closes the socket",
        file="_client.py",
        old="""                    attempt.follow(refusal)
                except BaseException:
""",
        new="""                    attempt.follow(refusal)
                except Exception:
""",
        scenario="open and leave (client)",
    ),
    Mutant(
        name="a cancelled handshake of a server leaves the stream open",
        breaks="3.2: the opening handshake, cancelled, closes the socket",
        file="_accept.py",
        old="""        raise refused.error
    except BaseException:
""",
        new="""        raise refused.error
    except Exception:
""",
        scenario="open and leave (server)",
    ),
    Mutant(
        name="a cancelled TLS handshake leaves the socket open",
        breaks="3.2: the opening handshake, TLS included, closes the socket when it is cancelled",
        file="_transports/sockets.py",
        old="""left during the TLS handshake") from error
    except BaseException:
""",
        new="""left during the TLS handshake") from error
    except Exception:
""",
        scenario="a server that leaves during tls",
        kind=TCP,
    ),
    Mutant(
        name="a native cancellation of on_request is answered with 500",
        breaks="3.2, H28: a cancellation is never swallowed, Task.cancel() included",
        file="_connection.py",
        old="        is_cancelled() or _is_cancelled_natively()\n",
        new="        is_cancelled()\n",
        scenario="handshake (server)",
    ),
]

NATIVES = [
    Mutant(
        name="the answer to a handshake is taken back",
        breaks="3.2: a client is told either 101 or 503",
        file="_transports/link.py",
        old="        self._sink.write(item)\n",
        new="        self._sink.write(item)\n        await checkpoint()\n",
        scenario="drain with idle",
        kind=TCP,
    ),
    Mutant(
        name="a sender that waits in front of a broken network is not told",
        breaks="3.5, H18: a write that makes no progress breaks the connection",
        file="_transports/asyncio.py",
        old="        self._release_drains(written=False)\n",
        new="",
        scenario="a stalled write",
        kind=NATIVE,
    ),
    Mutant(
        name="a write of which a part was taken is over",
        breaks="3.2, H1: what a cancelled write had begun is finished, or the connection breaks",
        file="_transports/writer.py",
        old="            self._rest = memoryview(data)[sent:]\n",
        new="            self._rest = memoryview(data)[len(data) :]\n",
        scenario="send large",
        kind=NATIVE,
    ),
    Mutant(
        name="of what is held together the latest goes out first",
        breaks="3.2: what `send` has returned from goes out, in order",
        file="_transports/asyncio.py",
        old="            self._corked.append(frame)\n",
        new="            self._corked.insert(0, frame)\n",
        scenario="send several in a row",
        kind=NATIVE,
    ),
    Mutant(
        name="a large frame is over with its first piece",
        breaks="3.2, H1: what a cancelled write had begun is finished, or the connection breaks",
        file="_transports/asyncio.py",
        old="                pending.appendleft(view[_PIECE:])\n",
        new="                pending.appendleft(view[2 * _PIECE :])\n",
        scenario="send large",
        kind=NATIVE,
    ),
    Mutant(
        name="the loop reads on although there is no room",
        breaks="3.4, V5: where the inbox is full, reading stops",
        file="_transports/asyncio.py",
        old="                self._sink.pause_reading()\n",
        new="                pass\n",
        scenario="full inbox",
        kind=NATIVE,
    ),
]

SERVERS = [
    Mutant(
        name="a server tells nobody that it closes",
        breaks="3.2, H10: the drain sends Close 1001 to every connection",
        file="_server.py",
        old="""            for served in self._served:
                served.send_away(timeout, self._code)
""",
        new="""            pass
""",
        scenario="drain with idle",
    ),
    Mutant(
        name="a server that closes says 1000",
        breaks="3.2, H10: the drain sends Close 1001 to every connection",
        file="_connection.py",
        old="        self._protocol.close(Close(code))\n",
        new="        self._protocol.close(Close(CloseCode.NORMAL))\n",
        scenario="drain with idle",
    ),
    Mutant(
        name="the drain waits for handlers without a deadline",
        breaks="3.5, H11: after drain_timeout, handlers are cancelled",
        file="_server.py",
        old="""        with move_on_at(self._drained_by):
            await self._wait_until_gone()
""",
        new="""        await self._wait_until_gone()
""",
        scenario="drain with stuck",
    ),
    Mutant(
        name="each step of the drain has a deadline of its own",
        breaks="3.2, H11: a cancelled drain has one cancel_grace, whatever it has waited before",
        file="_server.py",
        old="self._drained_by = min(self._drained_by, current_time() + timeout)",
        new="self._drained_by = current_time() + timeout",
        scenario="drain that is cancelled",
    ),
    Mutant(
        name="handlers are cancelled as soon as the peer is told",
        breaks="3.3: handlers run until the deadline of the drain",
        file="_server.py",
        old="""        with move_on_at(self._drained_by):
            await self._wait_until_gone()
""",
        new="",
        scenario="drain with busy",
    ),
    Mutant(
        name="handlers are cancelled with the server",
        breaks="3.3: handlers run shielded until the drain is done",
        file="_served.py",
        old="self._scope = CancelScope(shield=True)",
        new="self._scope = CancelScope()",
        scenario="drain with busy",
    ),
    Mutant(
        name="half-open handshakes are not refused",
        breaks="3.2, H10: the drain refuses half-open handshakes with 503",
        file="_server.py",
        old="""            for served in self._served:
                served.refuse()
""",
        new="",
        scenario="drain with idle",
    ),
    Mutant(
        name="who comes while the server closes is let in",
        breaks="3.2, H10: a closing server accepts nobody",
        file="_server.py",
        old="            if not self._retiring:\n                served.refuse()\n",
        new="",
        scenario="drain with idle",
    ),
    Mutant(
        name="a cancellation of the drain takes the place of the body's exception",
        breaks="3.1, H6: the body's exception leaves open_server as itself",
        file="_server.py",
        old="""        except cancelled:
            if exc is None:
                raise
""",
        new="""        except cancelled:
            raise
""",
        scenario="server whose body raises",
    ),
    Mutant(
        name="a server leaves its listeners open",
        breaks="3.1: no socket outlives the block that owns it",
        file="_accepting.py",
        old="                    await listener.aclose()\n",
        new="                    pass\n",
        scenario="a server that listens by itself",
        kind=TCP,
    ),
]

CALLBACKS = [
    Mutant(
        name="a callback client tells what came when it was closing",
        breaks="nothing but the end is told behind a close",
        file="callbacks/_run.py",
        old="return self.closing is None or kind is Closed or kind is Failed",
        new="return True",
        scenario="slow listener that closes",
    ),
    Mutant(
        name="a cancelled callback client does not count as closed",
        breaks="whatever ends a run, the client is closed then",
        file="callbacks/_run.py",
        old="            self.ended = True\n            self._drop_outbox()\n",
        new="            self._drop_outbox()\n",
        scenario="events of a connection",
    ),
    Mutant(
        name="a callback client keeps what nobody will send any more",
        breaks="pending_bytes is what waits, and nothing waits when all is over",
        file="callbacks/_run.py",
        old="            self.ended = True\n            self._drop_outbox()\n",
        new="            self.ended = True\n",
        scenario="sends at every turn",
    ),
    Mutant(
        name="a callback client closes in front of its messages",
        breaks="messages, and a close behind them, go out in the order of the calls",
        file="callbacks/_run.py",
        old="            while self._outbox:\n                await self._all_is_sent.wait()\n",
        new="",
        scenario="a close behind messages",
    ),
    Mutant(
        name="a callback client does not give up what nobody takes",
        breaks="Closed is told after close_timeout at the latest",
        file="callbacks/_run.py",
        old="        if scope.cancelled_caught:\n            websocket.abort()\n",
        new="",
        scenario="messages that nobody reads",
    ),
    Mutant(
        name="a callback that fails ends its client",
        breaks="a listener that raises changes nothing else",
        file="callbacks/_inbox.py",
        old="""                        await result
                except Exception as error:""",
        new="""                        await result
                except KeyError as error:""",
        scenario="listeners that raise",
    ),
    Mutant(
        name="a callback takes the cancellation for a failure of its own",
        breaks="H28: no cancellation gets lost in the package",
        file="callbacks/_inbox.py",
        old="""                        await result
                except Exception as error:""",
        new="""                        await result
                except BaseException as error:""",
        scenario="events and a slow listener",
    ),
    Mutant(
        name="the loop of callback clients goes on without them",
        breaks="the background thread ends with the last connection",
        file="callbacks/_background.py",
        old="                self._runs.discard(run)\n            self._end_if_done()\n",
        new="                self._runs.discard(run)\n",
        scenario="events from the background",
    ),
]

CROWDS = [
    Mutant(
        name="a Close goes between what was broadcast",
        breaks="3.3, RFC 6455, 5.5.1: nothing is sent behind a Close",
        file="_transports/writer.py",
        old="if protocol.replies and (protocol.sendable or not self._pushed):",
        new="if protocol.replies:",
        scenario="broadcasts to a peer",
    ),
    Mutant(
        name="a broadcast goes into a message in fragments",
        breaks="3.4: frames of one message never interleave with another's",
        file="_broadcast.py",
        old="    if ws._fragmented is not None:\n        ws._fragmented.hold(message)\n    else:\n",
        new="    if ws is not None:\n",
        scenario="broadcasts to a peer",
    ),
    Mutant(
        name="a byte stream takes bytes before its last chance to be cancelled",
        breaks="3.2: a cancelled receive loses nothing",
        file="_byte_stream.py",
        old="        self._rest = self._rest[max_bytes:]\n",
        new="        self._rest = self._rest[max_bytes:]\n        await checkpoint()\n",
        scenario="bytes received by a call",
    ),
    Mutant(
        name="a delay of reconnecting is not to be stopped",
        breaks="a loop of another task ends with the block",
        file="_reconnect.py",
        old="        if self._step is not None:\n            self._step.cancel()\n",
        new="",
        scenario="a block that is left while another",
    ),
]

MUTANTS = [
    *WRITING,
    *RECEIVING,
    *FRAGMENTS,
    *CLOSING,
    *EXCEPTIONS,
    *TASKS,
    *NATIVES,
    *WATCHING,
    *HANDSHAKES,
    *SERVERS,
    *CALLBACKS,
    *CROWDS,
]
