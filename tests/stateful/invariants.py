"""What has to be true of two connected ends whenever everything is at rest.

`observe` is called then, and only then. It looks at the connections through their public face, at
the bytes between them, and at what the program was told; a broken promise is a `Violation`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import anyio
from stateful.operations import (
    Outcome,
    Own,
    Ping,
    ReceiveInPieces,
    Send,
    SendInFragments,
    WaitClosed,
)
from stateful.wire import brief, check

from anyws import (
    Close,
    ClosedByPeer,
    ClosedByUs,
    ClosedWithError,
    ConnectionBroken,
    ConnectionClosed,
    Status,
)

if TYPE_CHECKING:
    from stateful.operations import Operation
    from stateful.wire import WireMessage
    from stateful.world import End, World
    from streams import Frame

    from anyws import Closure

# Seconds in which a connection makes its one attempt at a Close, where it has no time for more.
ATTEMPT = 0.1
# After so many seconds without a `receive`, a connection reads on its own.
READS_AHEAD_AFTER = 0.1
# What passes for the same time.
MOMENT = 1e-6
# Of text a piece ends between code points: so many bytes may be held back.
PART_OF_A_CODE_POINT = 3

# Frames are held back up to this size, and the one that reaches it.
MOST_HELD = 2 * 65536
# Of one of them, in bytes or code points.
LARGEST_HELD = 16384

_ORDER = [Status.CONNECTING, Status.OPEN, Status.CLOSING, Status.CLOSED]
_ORDINARY = {1000, 1001, 1005}
_MARK = re.compile(rb"<([cs])(\d+)\.(\d+)>")


def observe(world: World) -> None:
    check(not world.loop.errors, f"nobody was told: {world.loop.errors}")
    _check_complaints(world)
    for end in world.ends:
        end.outgoing.read()
    for end in world.ends:
        _track(world, end)
    for end in world.ends:
        _check_status(world, end)
        _check_sent(world, end)
        _check_received(end)
        for operation in end.operations:
            _check_operation(world, end, operation)
        _check_owner(world, end)
        _check_rest(world, end)
        _check_times(world, end)
    _check_agreement(world)
    _check_tasks(world)


def _check_complaints(world: World) -> None:
    complaints = list(world.complaints)
    world.complaints.clear()
    if world.expects_warning:
        complaints = [one for one in complaints if not one.startswith("ResourceWarning: <anyws")]
    check(not complaints, f"the library complains: {complaints}")


# --- What is remembered from one rest to the next ---


def _track(world: World, end: End) -> None:
    now, seen = world.loop.now, end.seen
    pipe = end.stream.outgoing
    if seen.closure is None:
        # Also while closing waits for it. A write that was in the way began after there was room the
        # last time, but for this.
        seen.was_stalled = _is_past(end.config.write_timeout, now - seen.room_at)
    if len(pipe.data) < pipe.capacity:
        seen.room_at = now
    if end.outgoing.size > seen.sent:
        seen.sent, seen.sent_at = end.outgoing.size, now
    if end.incoming.taken > seen.taken:
        seen.taken, seen.taken_at = end.incoming.taken, now
    seen.unread_since = min(seen.unread_since, now) if _is_unread(world, end) else math.inf
    for one in end.operations:
        if isinstance(one, SendInFragments) and not one.pending and one.outcome != Outcome.RETURNED:
            end.requests.append((1011, None))
    status = end.status
    if status is Status.OPEN or seen.over_at < math.inf:
        return
    seen.over_at = now
    config = end.config
    if config.ping_interval is not None:
        patience = config.ping_interval + (config.ping_timeout or math.inf)
        seen.was_silent = _is_past(patience, now - seen.taken_at) and not _is_unread(world, end)
    if config.close_timeout is not None:
        end.must_close_by = min(end.must_close_by, now + config.close_timeout)
        end.may_cut_from = min(end.may_cut_from, now + config.close_timeout)
    closure = end.ws.closure if end.ws is not None else None
    if closure is not None and closure.first == "ours" and (1000, "eof") not in end.requests:
        end.discards = True


def _is_past(limit: float | None, seconds: float) -> bool:
    return limit is not None and seconds >= limit - MOMENT


def _is_unread(world: World, end: End) -> bool:
    """Whether there is something on the incoming pipe that could be read."""
    pipe = end.stream.incoming
    return pipe._arrived(world.loop.now) > 0 and not pipe._stalled and not world.faults


# --- How it stands ---


def _check_status(world: World, end: End) -> None:
    ws, seen = end.ws, end.seen
    status = end.status
    check(_ORDER.index(status) >= _ORDER.index(seen.status), f"from {seen.status} to {status}")
    seen.status = status
    if ws is None:
        return
    closure = ws.closure
    check(ws.is_open is (status is Status.OPEN), f"{status}, and is_open is {ws.is_open}")
    check((closure is None) is (status is Status.OPEN), f"{status}, and closure is {closure}")
    if closure is None:
        check(end.outgoing.close is None, "a Close was sent, and the connection is open")
        return
    _check_closure(world, end, closure)
    if status is Status.CLOSED:
        # Behind a full inbox the peer's Close may wait still, and then that is the reason.
        was_found = seen.has_unread and closure.received is not None
        if seen.closure is None or (was_found and closure != seen.closure):
            seen.closure = closure
            _check_cause(world, end, closure)
        check(closure == seen.closure, f"closed by {seen.closure}, and then by {closure}")
        seen.has_unread = ws._protocol.has_unparsed


def _check_closure(world: World, end: End, closure: Closure) -> None:
    ours, theirs = end.outgoing.close, end.incoming.close
    both = closure.sent is not None and closure.received is not None
    check(closure.clean is both, f"not clean, or clean: {closure}")
    check(closure.code == (closure.received.code if closure.received else 1006), f"{closure}")
    if ours is not None:
        check(closure.sent == _close_of(ours), f"sent {ours}, and it says {closure}")
        _check_was_asked(end, closure)
    if closure.received is not None:
        check(theirs is not None, f"no Close was sent to it: {closure}")
        assert theirs is not None
        check(closure.received == _close_of(theirs), f"got {theirs}, and it says {closure}")
        check(end.incoming.close_ends_at <= end.incoming.taken, "their Close is on its way still")
    if closure.first == "theirs":
        check(closure.received is not None, f"they were first, and did not close: {closure}")


def _close_of(frame: Frame) -> Close:
    return Close(frame.code, frame.reason) if frame.payload else Close(1005)


def _check_was_asked(end: End, closure: Closure) -> None:
    """A Close that was sent was asked for, or answers the peer's, or a message too large."""
    sent = closure.sent
    assert sent is not None
    wanted = any(
        sent.code == code and reason in {None, sent.reason, "eof"} for code, reason in end.requests
    )
    answer = closure.received is not None and sent == Close(closure.received.code)
    refusal = sent.code == 1009 and _has_sent_too_much(end.peer)
    check(wanted or answer or refusal, f"nobody asked for {sent}: {end.requests}, {closure}")


def _has_sent_too_much(end: End) -> bool:
    limit = end.peer.config.max_message_size
    return limit is not None and any(one.size > limit for one in end.messages.values())


def _check_cause(world: World, end: End, closure: Closure) -> None:
    """The reason that is given for the end is one that there was."""
    seen, now = end.seen, world.loop.now
    waited = now >= end.may_cut_from - MOMENT
    excuses = {
        "the peer closed the connection with": closure.first == "theirs",
        "this end ": end.aborted or bool(end.requests),
        "the connection was lost: ": bool(world.faults) or end.peer.stream.outgoing.ended,
        "the peer sent what is refused: ": _has_sent_too_much(end.peer),
        "a write stalled: ": seen.was_stalled,
        "no sign of life from the peer: ": seen.was_silent,
        "the program dropped the connection": end.aborted,
        "the closing handshake was cancelled": bool(end.requests) and waited,
        "there was no time for the closing handshake": bool(end.requests) and waited,
        "the peer's Close did not come in time": bool(end.requests) and waited,
        "our Close could not be sent in time": bool(end.requests) and waited,
    }
    found = [excuse for words, excuse in excuses.items() if closure.cause.startswith(words)]
    check(found == [True], f"there was no reason to say: {closure.cause}")
    if not closure.clean and "in time" in closure.cause:
        check(waited, f"cut too soon: {closure.cause}")


# --- What is on the wire ---


def _check_sent(world: World, end: End) -> None:
    wire, seen = end.outgoing, end.seen
    for message in wire.messages[seen.wire_messages :]:
        _check_message(end, message)
        if message.ends_at is not None:
            seen.wire_messages += 1
    if not world.faults:
        held = 0
        for handed in end.messages.values():
            arrived = end.on_wire.get(handed.number)
            there = [] if arrived is None else arrived.pieces
            sent = [piece for piece in handed.pieces if piece.returned and piece.content]
            missing = [piece for piece in sent if piece.content not in there]
            if missing:
                may_be_held = all(
                    piece.is_answer and len(piece.data) <= LARGEST_HELD for piece in missing
                )
                check(may_be_held and _holds_back(end), f"sent, and not there: {handed}")
                held += sum(len(piece.content) for piece in missing)
            elif handed.ended and sent:
                is_whole = arrived is not None and arrived.ends_at is not None
                check(is_whole or _holds_back(end), f"sent, and not to its end: {handed}")
        check(held <= MOST_HELD, f"{held} bytes were sent, and are held back")
    closure = end.ws.closure if end.ws is not None else None
    if closure is not None and closure.clean and end.status is Status.CLOSED and not world.faults:
        check(not wire.rest, f"a clean end within a frame: {wire.rest[:20]!r}")


def _holds_back(end: End) -> bool:
    """Whether what was sent may not be on the wire: frames that answer waiting messages go out
    together, behind a write that stalls, and with it they are lost.
    """
    stalls = len(end.stream.outgoing.data) >= end.stream.outgoing.capacity
    closure = end.ws.closure if end.ws is not None else None
    return stalls or (closure is not None and not closure.clean)


def _check_message(end: End, message: WireMessage) -> None:
    """A message on the wire is one that was handed to `send`, as it was, and there once."""
    number, last = None, -1
    for content in message.pieces:
        mark = _MARK.match(content)
        if mark is None:
            check(content == b"", f"nobody sent {brief(content)}")
            continue
        check(mark[1].decode() == end.name[0], f"{end.name} sent {brief(content)}")
        check(number in {None, int(mark[2])}, f"fragments of two messages: {message}")
        number, index = int(mark[2]), int(mark[3])
        check(index > last, f"a fragment out of order, or twice: {message}")
        last = index
        handed = end.messages[number]
        piece = handed.pieces[index]
        check(content == piece.content, f"not what was sent: {brief(content)}")
        check(not piece.never, f"cancelled before anything was sent, and sent: {brief(content)}")
        check(message.is_text is handed.is_text, f"of the wrong type: {brief(content)}")
        if handed.compress is not None and end.compresses:
            check(message.compressed is handed.compress, f"compressed or not: {brief(content)}")
    if number is None:
        return
    known = end.on_wire.setdefault(number, message)
    check(known is message, f"sent twice: {message}")
    handed = end.messages[number]
    if message.ends_at is not None:
        check(handed.in_fragments or len(message.pieces) == 1, f"in fragments: {message}")
        if handed.in_line:
            check(handed.batch >= end.seen.wire_batch, f"overtaken by a later one: {message}")
            end.seen.wire_batch = handed.batch


# --- What the program was given ---


def _check_received(end: End) -> None:
    """It is what came, in order, nothing left out and nothing twice."""
    wire, seen = end.incoming, end.seen
    messages = wire.messages_begun()
    for place, received in enumerate(end.received[seen.received :], seen.received):
        check(place < len(messages), f"received, and never sent: {received}")
        message = messages[place]
        check(received.is_text is message.is_text, f"of the wrong type: {received}")
        words = f"{received}, where {message} was due"
        if received.complete:
            came = message.ends_at is not None and message.ends_at <= wire.taken
            check(came, f"received to its end before that has come: {received}")
            check(received.content == message.content, words)
        else:
            check(message.content.startswith(received.content), words)
        if message.ends_at is not None and (received.complete or place + 1 < len(end.received)):
            seen.received = place + 1


# --- How operations end ---


def _check_operation(world: World, end: End, one: Operation) -> None:
    if one.pending:
        check(not one.at_rest, f"cancelled, and still there: {one}")
        over = end.status is Status.CLOSED
        check(not over or one.waits_for_us, f"the connection is closed, and still there: {one}")
        return
    busy = one.error is anyio.BusyResourceError
    if busy:
        check(one.receiving and one.met_another, f"nobody else is receiving: {one}")
    elif one.beforehand or one.at_rest:
        check(one.outcome is Outcome.CANCELLED, f"cancelled, and it did not end by that: {one}")
        if one.at_rest and one.harmless and not world.faults:
            check(one.statuses == world.statuses(), f"the cancellation cost the connection: {one}")
    elif one.outcome is Outcome.CANCELLED:
        check(one.cancelled, f"nobody cancelled it: {one}")
    if one.outcome is Outcome.RETURNED:
        _check_returned(world, end, one)
    elif one.closure is not None:
        _check_raised(end, one)


def _check_returned(world: World, end: End, one: Operation) -> None:
    ws = end.ws
    if isinstance(one, (Send, Ping, SendInFragments)):
        check(not one.was_over, f"the connection was over, and it returned: {one}")
    if isinstance(one, Ping):
        took = world.loop.now - one.started_at
        check(0 <= one.value <= took + MOMENT, f"{one.value} s, in {took} s")
        check(end.outgoing.pings, "a pong without a ping")
    elif isinstance(one, WaitClosed) or one.name == "close":
        check(end.status is Status.CLOSED, f"not closed, and it returned: {one}")
        check(ws is None or one.value == ws.closure, f"it returned {one.value}")
    elif one.name == "cancel_when_closed":
        check(one.value and end.status is not Status.OPEN, f"cancelled while open: {one}")


def _check_raised(end: End, one: Operation) -> None:
    closure, error = one.closure, one.error
    assert closure is not None
    check(end.status is not Status.OPEN, f"it raised, and the connection is open: {one}")
    code = closure.received.code if closure.received else None
    facts = {
        ClosedByPeer: code in _ORDINARY,
        ClosedWithError: code is not None and code not in _ORDINARY,
        ClosedByUs: (closure.first == "ours" and bool(end.requests)) or end.aborted,
        ConnectionBroken: closure.first != "theirs",
    }
    assert error is not None
    check(issubclass(error, ConnectionClosed) and facts.get(error), f"{one} with {closure}")
    if error in {ClosedByPeer, ClosedWithError}:
        delivers = one.receiving and (1000, "eof") in end.requests
        check(closure.first == "theirs" or delivers, f"{one} with {closure}")


def _check_owner(world: World, end: End) -> None:
    owner: Own = end.owner
    if owner.pending:
        if not owner.waits_for_us:
            check(end.status is not Status.CLOSED, f"closed, and the block does not end: {end}")
            check(not owner.at_rest or world.loop.now <= end.must_close_by + MOMENT, "it stays")
        return
    check(owner.wrong is None, f"{owner.wrong!r} left the block, and not what its body raised")
    expected = {
        "return": {Outcome.RETURNED} | ({Outcome.CANCELLED} if owner.cancelled else set()),
        "exception": {Outcome.RAISED},
        "cancellation": {Outcome.CANCELLED},
    }
    check(owner.leaving is not None, f"the block has ended by itself: {owner}")
    assert owner.leaving is not None
    check(owner.outcome in expected[owner.leaving], f"left by {owner.leaving}: {owner}")
    check(end.status is Status.CLOSED, f"the block has ended, and the connection is {end.status}")


# --- What may not wait ---


def _check_rest(world: World, end: End) -> None:
    """Nobody waits for what is there."""
    stream = end.stream
    if end.status is Status.CLOSED:
        check(stream.closed, "closed, and the stream is open")
        return
    if any(one.receiving for one in end.pending):
        _check_receiving(world, end)
    if stream._failing_send is None and not stream.outgoing.ended:
        _check_sending(end)
    closing = end.outgoing.close is not None and end.discards and end.incoming.close is None
    if closing and stream._failing_receive is None:
        check(not _is_unread(world, end), f"it has closed, and does not read on: {end}")


def _check_receiving(world: World, end: End) -> None:
    taken = end.incoming.messages_taken()
    (receiver,) = [one for one in end.pending if one.receiving]
    within = isinstance(receiver, ReceiveInPieces) and receiver.entered
    if not end.discards:
        check(
            len(taken) <= len(end.received) - within,
            f"it has come, and nobody gets it: {taken[-1:]}",
        )
    if end.stream._failing_receive is None:
        check(not _is_unread(world, end), f"nobody reads: {bytes(end.stream.incoming.data[:40])!r}")


def _check_sending(end: End) -> None:
    pipe = end.stream.outgoing
    if end.status is not Status.OPEN or len(pipe.data) >= pipe.capacity:
        return
    check(not end.outgoing.rest, f"there is room, and half a frame: {end.outgoing.rest[:20]!r}")
    in_line = not any(one.entered for one in end.fragmented)
    for one in end.pending:
        waits = isinstance(one, Send) and in_line
        waits |= isinstance(one, SendInFragments) and one.sends
        check(not waits, f"there is room, and nothing is sent: {one}")


def _check_times(world: World, end: End) -> None:
    now, seen, config = world.loop.now, end.seen, end.config
    if end.status is Status.CLOSED:
        return
    check(
        # Sums of the same seconds differ in their last digit: then the timer is not due yet.
        now < end.must_close_by + MOMENT or end.status is Status.CLOSED,
        f"it should have been closed by {end.must_close_by}: {end}",
    )
    if end.status is not Status.OPEN:
        return
    writes = any(isinstance(one, Send) for one in end.pending) and not end.fragmented
    if writes and config.write_timeout is not None and not world.faults:
        check(
            now - max(seen.sent_at, seen.room_at) <= config.write_timeout + MOMENT,
            f"stalled: {end}",
        )
    if world.leaps:
        return
    if config.ping_interval is not None and config.ping_timeout is not None and end.has_room():
        patience = config.ping_interval + config.ping_timeout + READS_AHEAD_AFTER
        since = max(seen.taken_at, world.quiet_since)
        check(now - since <= patience + MOMENT, f"silence, and nothing is done: {end}")
    if now - world.quiet_since >= READS_AHEAD_AFTER and _is_healthy(world):
        _check_attention(world, end)


def _is_healthy(world: World) -> bool:
    pipes = [end.stream.outgoing for end in world.ends]
    flows = all(
        not (pipe._stalled or pipe._arrivals) and len(pipe.data) < pipe.capacity for pipe in pipes
    )
    return flows and not world.faults


def _check_attention(world: World, end: End) -> None:
    """What needs no program is done without it, as long as there is room for messages."""
    if not end.has_room():
        return
    unread_for = world.loop.now - end.seen.unread_since
    check(unread_for < READS_AHEAD_AFTER, f"nobody reads: {end}")
    if unread_for >= 0:
        return
    check(end.incoming.close is None, f"a Close has come, and nobody notices: {end}")
    if end.peer.has_room() and end.peer.status is Status.OPEN:
        pings = [one for one in end.pending if isinstance(one, Ping)]
        check(not pings, f"no answer to a ping: {end}")


# --- Both together ---


def _check_agreement(world: World) -> None:
    closures = [end.ws.closure for end in world.ends if end.ws is not None]
    if len(closures) < 2 or not all(one is not None and one.clean for one in closures):
        return
    ours, theirs = closures
    assert ours is not None
    assert theirs is not None
    check(ours.sent == theirs.received, f"{ours} and {theirs}")
    check(ours.received == theirs.sent, f"{ours} and {theirs}")
    firsts = {ours.first, theirs.first}
    crossed = firsts == {"ours"} and all(end.requests for end in world.ends)
    check(firsts == {"ours", "theirs"} or crossed, f"{ours} and {theirs}")


def _check_tasks(world: World) -> None:
    """Two of the library's tasks for a connection, none for one that is closed."""
    names = [name for name in world.loop.task_names() if name.startswith("anyws ")]
    alive = sum(end.status is not Status.CLOSED for end in world.ends)
    check(len(names) == 2 * alive, f"{alive} connections, and {names}")
