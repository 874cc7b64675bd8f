"""Messages nobody has taken yet: joined, bounded, in pieces."""

from __future__ import annotations

import sys
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from anyws._protocol.inbox import Inbox, size_of

KIB = 1024
MIB = 1024 * KIB


def inbox(max_messages: int | None = 16, max_bytes: int = MIB) -> Inbox:
    return Inbox(max_messages, max_bytes)


def add(box: Inbox, *fragments: str | bytes) -> None:
    """A whole message, in these fragments."""
    for number, fragment in enumerate(fragments, 1):
        box.add(fragment, finished=number == len(fragments))


def begin(box: Inbox, *fragments: str | bytes) -> None:
    """A message of which more is to come."""
    for fragment in fragments:
        box.add(fragment, finished=False)


def take_all(box: Inbox) -> list[str | bytes]:
    return [box.take() for _ in range(len(box.messages))]


def pieces_of(box: Inbox) -> list[str | bytes]:
    """All that is here of the streamed message: one piece, or none."""
    pieces = []
    while box.has_piece:
        pieces.append(box.take_piece())
    return pieces


@given(st.text() | st.binary())
def test_the_size_of_a_message_is_that_of_its_payload(data: str | bytes) -> None:
    assert size_of(data) == len(data.encode() if isinstance(data, str) else data)


# --- Whole messages ---


def test_several_messages_may_come_at_once() -> None:
    box = inbox()
    assert not box.has_message()
    box.add_whole(["a", b"bc"], 3)
    box.add_whole(["d"], 1)
    assert box.has_message()
    assert box.waiting_bytes == 4
    assert take_all(box) == ["a", b"bc", "d"]
    assert box.waiting_bytes == 0
    assert not box.has_message()


def test_messages_come_at_once_where_nothing_else_is_under_way() -> None:
    box = inbox()
    assert box.takes_whole
    begin(box, "half")
    assert not box.takes_whole
    add(box, "")
    assert box.takes_whole
    box.start_streaming()
    assert not box.takes_whole
    box.stop_streaming()
    assert box.takes_whole
    box.discard()
    assert not box.takes_whole


def test_messages_are_taken_in_their_order() -> None:
    """R-58, R-74."""
    box = inbox()
    assert not box.available
    add(box, "a")
    add(box, b"b")
    assert box.available
    assert take_all(box) == ["a", b"b"]
    assert not box.available


@pytest.mark.parametrize("fragments", [("a", "b"), ("", "a", ""), ("", ""), ("é", "€", "\r", "\n")])
def test_fragments_are_joined_as_they_are(fragments: tuple[str, ...]) -> None:
    """R-58, R-61, R-63, R-74."""
    box = inbox()
    add(box, *fragments)
    add(box, *[fragment.encode() for fragment in fragments])
    assert take_all(box) == ["".join(fragments), "".join(fragments).encode()]


def test_a_message_is_not_available_before_its_end() -> None:
    box = inbox()
    begin(box, "a", "b")
    assert not box.available
    assert box.partial_bytes == 2
    assert box.waiting_bytes == 0
    box.add("", finished=True)
    assert box.available
    assert (box.partial_bytes, box.waiting_bytes) == (0, 2)


def test_what_is_taken_makes_room() -> None:
    box = inbox()
    add(box, "é€")
    add(box, b"ab", b"c")
    assert box.waiting_bytes == 8
    box.take()
    assert box.waiting_bytes == 3
    box.take()
    assert box.waiting_bytes == 0


# --- Bounds ---


def test_an_inbox_is_full_at_its_number_of_messages() -> None:
    """V5."""
    box = inbox(2)
    add(box, "")
    assert not box.full
    add(box, "")
    assert box.full
    assert box.too_far_ahead
    box.take()
    assert not box.full


def test_an_inbox_is_full_at_its_number_of_bytes() -> None:
    """V5."""
    box = inbox(None, 10)
    for _ in range(9):
        add(box, b"x")
    assert not box.full
    add(box, b"x")
    assert box.full
    box.take()
    assert not box.full


def test_a_partial_message_alone_does_not_fill_the_inbox() -> None:
    """W25."""
    box = inbox(16, 10)
    begin(box, b"x" * 9)
    assert not box.too_far_ahead
    begin(box, b"xx")
    assert not box.full
    assert box.too_far_ahead
    box.discard()
    assert not box.too_far_ahead


def test_many_small_fragments_are_kept_in_less_than_four_times_their_size() -> None:
    """W27, V3."""
    size = 200 * KIB
    for fragment in (b"ab", "ab", "\u20ac"):
        data = fragment if isinstance(fragment, bytes) else fragment.encode()
        box = inbox()
        tracemalloc.start()
        for _ in range(size // len(data)):
            box.add(fragment, finished=False)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert box.partial_bytes == size // len(data) * len(data)
        assert kept < 4 * size


def test_many_small_pieces_are_kept_in_less_than_four_times_their_size() -> None:
    """W27, V3."""
    size = 200 * KIB
    for data in (b"ab", "ab"):
        box = inbox()
        box.start_streaming()
        # Not one object many times: each piece is what the engine made of one chunk.
        many = range(0, size, 2)
        tracemalloc.start()
        for number in many:
            text = f"{number % 100:02}"
            box.add(text if isinstance(data, str) else text.encode(), finished=False)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert box.waiting_bytes == size
        assert kept < 4 * size
        assert sum(map(len, pieces_of(box))) == size


# --- In pieces ---


def test_a_streamed_message_is_handed_out_as_it_comes() -> None:
    """R-58."""
    box = inbox()
    box.start_streaming()
    assert not box.available
    begin(box, "a")
    assert box.available
    assert box.take_piece() == "a"
    assert not box.available
    begin(box, "b", "c")
    assert pieces_of(box) == ["bc"]
    assert not box.streamed_to_end
    box.add("d", finished=True)
    assert not box.streamed_to_end
    assert box.take_piece() == "d"
    assert box.streamed_to_end
    assert box.available
    box.stop_streaming()
    assert not box.available
    assert not box.streaming


def test_streaming_begins_with_a_whole_message_that_is_here() -> None:
    box = inbox()
    add(box, "one")
    add(box, "two")
    box.start_streaming()
    assert box.waiting_bytes == 6
    assert box.take_piece() == "one"
    assert box.streamed_to_end
    box.stop_streaming()
    assert take_all(box) == ["two"]
    assert box.waiting_bytes == 0


@pytest.mark.parametrize("begun", [("a", "b"), (b"a", b"b")])
def test_streaming_begins_with_what_is_here_of_a_message(begun: tuple[str | bytes, ...]) -> None:
    box = inbox()
    begin(box, *begun)
    box.start_streaming()
    assert (box.partial_bytes, box.waiting_bytes) == (0, 2)
    assert box.piece_is_text is isinstance(begun[0], str)
    assert box.take_piece() == begun[0] + begun[1]  # type: ignore[operator]
    assert not box.streamed_to_end
    box.add(begun[0], finished=True)
    assert box.take_piece() == begun[0]
    assert box.streamed_to_end


@pytest.mark.parametrize("empty", ["", b""])
def test_an_empty_message_has_one_empty_piece_which_tells_its_type(empty: str | bytes) -> None:
    """R-63."""
    for fragments in ([empty], [empty, empty]):
        box = inbox()
        box.start_streaming()
        add(box, *fragments)
        assert box.piece_is_text is isinstance(empty, str)
        assert pieces_of(box) == [empty]
        assert box.streamed_to_end


@pytest.mark.parametrize("fragments", [("a", ""), ("", "a"), ("", "a", "", "b", "")])
def test_a_message_with_content_has_no_empty_pieces_whenever_they_are_taken(
    fragments: tuple[str, ...],
) -> None:
    """R-61."""
    for start in range(len(fragments)):
        for taken_at_once in (False, True):
            box = inbox()
            pieces: list[str | bytes] = []
            for number, fragment in enumerate(fragments):
                if number == start:
                    box.start_streaming()
                box.add(fragment, finished=number == len(fragments) - 1)
                if taken_at_once and box.streaming:
                    pieces += pieces_of(box)
            pieces += pieces_of(box)
            assert "" not in pieces
            assert "".join(map(str, pieces)) == "".join(fragments)
            assert box.streamed_to_end


def test_messages_behind_the_streamed_one_are_kept_whole() -> None:
    box = inbox()
    box.start_streaming()
    add(box, "a")
    add(box, "b", "c")
    begin(box, b"d")
    assert pieces_of(box) == ["a"]
    assert box.streamed_to_end
    box.stop_streaming()
    assert take_all(box) == ["bc"]
    box.add(b"e", finished=True)
    assert take_all(box) == [b"de"]


def test_pieces_count_against_the_bounds() -> None:
    """V5."""
    box = inbox(16, 4)
    box.start_streaming()
    begin(box, "ab")
    assert not box.full
    begin(box, "cd")
    assert box.full
    pieces_of(box)
    assert not box.full


def test_a_message_left_early_is_dropped_as_it_comes_and_the_next_is_whole() -> None:
    box = inbox()
    box.start_streaming()
    begin(box, "a", "b")
    box.take_piece()
    box.stop_streaming()
    assert (box.waiting_bytes, box.partial_bytes) == (0, 0)
    begin(box, "c" * 100)
    assert (box.waiting_bytes, box.partial_bytes) == (0, 0)
    box.add("d", finished=True)
    assert not box.available
    add(box, "next")
    assert take_all(box) == ["next"]


def test_a_message_left_when_all_of_it_is_here_does_not_cost_the_next() -> None:
    box = inbox()
    add(box, "left")
    add(box, "next")
    box.start_streaming()
    box.stop_streaming()
    assert take_all(box) == ["next"]
    assert box.waiting_bytes == 0


def test_leaving_before_anything_came_leaves_nothing_out() -> None:
    box = inbox()
    box.start_streaming()
    box.stop_streaming()
    add(box, "next")
    assert take_all(box) == ["next"]


def test_streaming_again_passes_over_the_rest_of_the_message_left() -> None:
    box = inbox()
    box.start_streaming()
    begin(box, "a")
    box.stop_streaming()
    box.start_streaming()
    begin(box, "b")
    assert not box.available
    # Leaving a second time, still within the same message, is no different.
    box.stop_streaming()
    box.start_streaming()
    box.add("c", finished=True)
    assert not box.available
    add(box, "d", "e")
    assert "".join(map(str, pieces_of(box))) == "de"
    assert box.streamed_to_end


@pytest.mark.parametrize("kind", [str, bytes])
def test_undone_streaming_leaves_no_trace(kind: type) -> None:
    """R-74."""

    def data(text: str) -> str | bytes:
        return text if kind is str else text.encode()

    parts = [data(text) for text in ("a", "é", "", "c")]
    for start, undo in [(i, j) for i in range(5) for j in range(i, 5)]:
        box = inbox()
        for number in range(5):
            if number == start:
                box.start_streaming()
            if number == undo:
                before = box.waiting_bytes + box.partial_bytes
                box.undo_streaming()
                assert box.waiting_bytes + box.partial_bytes == before
                assert not box.streaming
            if number < 4:
                box.add(parts[number], finished=number == 3)
        add(box, data("next"))
        assert take_all(box) == [data("aéc"), data("next")]
        assert (box.waiting_bytes, box.partial_bytes) == (0, 0)


def test_undone_streaming_puts_the_message_back_in_front() -> None:
    box = inbox()
    add(box, "one")
    add(box, "two")
    box.start_streaming()
    begin(box, "th")
    box.undo_streaming()
    box.add("ree", finished=True)
    assert take_all(box) == ["one", "two", "three"]


def test_undone_streaming_still_passes_over_a_message_left_before() -> None:
    box = inbox()
    box.start_streaming()
    begin(box, "a")
    box.stop_streaming()
    box.start_streaming()
    box.undo_streaming()
    add(box, "b")
    add(box, "next")
    assert take_all(box) == ["next"]


# --- After our own close ---


def test_a_discarding_inbox_keeps_nothing_and_is_never_full() -> None:
    """R-73, V5."""
    box = inbox(1, 10)
    add(box, "x" * 20)
    begin(box, "y")
    assert box.full
    box.discard()
    assert not box.full
    assert not box.available
    add(box, "z" * 100)
    begin(box, "z")
    assert (box.waiting_bytes, box.partial_bytes) == (0, 0)
    assert not box.available


def test_dropping_pieces_is_not_the_end_of_the_streamed_message() -> None:
    """Half a message must not look like a whole one."""
    for fragments in (["whole"], ["in", "pieces"]):
        box = inbox()
        box.start_streaming()
        add(box, *fragments)
        box.discard()
        assert not box.streamed_to_end
        assert not box.available


def test_a_message_streamed_to_its_end_stays_so_when_the_rest_is_discarded() -> None:
    box = inbox()
    box.start_streaming()
    add(box, "a")
    pieces_of(box)
    box.discard()
    assert box.streamed_to_end


def test_undoing_or_stopping_after_a_discard_does_nothing() -> None:
    for whole in (False, True):
        for end in (Inbox.undo_streaming, Inbox.stop_streaming):
            box = inbox()
            box.start_streaming()
            box.add("a", finished=whole)
            box.discard()
            end(box)
            assert not box.available
            assert not box.streaming
            assert (box.waiting_bytes, box.partial_bytes) == (0, 0)


# --- The model ---


class Inboxes(RuleBasedStateMachine):
    """Any order of what the peer and the reader may do, against a list of messages."""

    def __init__(self) -> None:
        super().__init__()
        self.box = inbox(3, 12)
        self.whole: list[str | bytes] = []  # not streamed, not taken
        self.partial: str | bytes | None = None  # the message that is coming in
        self.wanted = True  # the reader has not left that one
        self.streaming = False
        self.piece: str | bytes | None = None  # what is not yet taken of the streamed one
        self.any = False  # there was a piece of it
        self.ended = False  # it is all here
        self.took = False  # some of it was taken

    def arrived(self, data: str | bytes, finished: bool) -> None:
        into_stream = self.streaming and not self.ended and self.wanted
        if self.partial is None:
            self.partial = data[:0]
        if not self.wanted:
            self.wanted = finished
            self.partial = None if finished else self.partial
        elif into_stream:
            if data or (finished and not self.any):
                self.piece = data if self.piece is None else self.piece + data  # type: ignore[operator]
                self.any = True
            self.ended = finished
            self.partial = None if finished else self.partial
        else:
            self.partial += data  # type: ignore[operator]
            if finished:
                self.whole.append(self.partial)
                self.partial = None

    @rule(text=st.text("aé", max_size=3), is_text=st.booleans(), finished=st.booleans())
    def fragment(self, text: str, is_text: bool, finished: bool) -> None:
        if self.partial is not None:
            is_text = isinstance(self.partial, str)
        data = text if is_text else text.encode()
        self.box.add(data, finished=finished)
        self.arrived(data, finished)

    @precondition(lambda self: self.whole and not self.streaming)
    @rule()
    def take(self) -> None:
        assert self.box.take() == self.whole.pop(0)

    @precondition(lambda self: not self.streaming)
    @rule()
    def start(self) -> None:
        self.box.start_streaming()
        self.streaming, self.ended, self.took, self.piece = True, False, False, None
        if self.whole:
            self.piece, self.ended = self.whole.pop(0), True
        elif self.partial and self.wanted:
            self.piece, self.partial = self.partial, self.partial[:0]
        self.any = self.piece is not None

    @precondition(lambda self: self.box.has_piece)
    @rule()
    def take_piece(self) -> None:
        assert self.box.piece_is_text is isinstance(self.piece, str)
        assert self.box.take_piece() == self.piece
        self.piece = None
        self.took = True

    @precondition(lambda self: self.streaming)
    @rule()
    def stop(self) -> None:
        self.box.stop_streaming()
        if self.partial is not None and not self.ended:
            self.wanted = False
        self.streaming, self.ended, self.piece = False, False, None

    @precondition(lambda self: self.streaming and not self.took)
    @rule()
    def undo(self) -> None:
        self.box.undo_streaming()
        if self.ended:
            assert self.piece is not None
            self.whole.insert(0, self.piece)
        elif self.piece is not None:
            self.partial = self.piece
        self.streaming, self.ended, self.piece = False, False, None

    @invariant()
    def agrees(self) -> None:
        box = self.box
        assert list(box.messages) == self.whole
        assert box.has_piece is (self.piece is not None)
        done = self.streaming and self.ended and self.piece is None
        assert box.streamed_to_end is done
        assert box.available is bool(self.whole or box.has_piece or done)
        waiting = sum(map(size_of, self.whole)) + size_of(self.piece or "")
        assert box.waiting_bytes == waiting
        kept = self.partial is not None and self.wanted
        assert box.partial_bytes == (size_of(self.partial or "") if kept else 0)
        assert box.full is (waiting >= 12 or len(self.whole) >= 3)
        assert box.too_far_ahead is (box.full or box.partial_bytes >= 12)


test_an_inbox_is_a_list_of_messages = Inboxes.TestCase


def test_joining_takes_time_in_proportion() -> None:
    """V11, W27."""
    # Growth in place shows in how seldom the store moves.
    box = inbox()
    sizes = []
    for _ in range(20_000):
        box.add(b"x", finished=False)
        sizes.append(sys.getsizeof(box._partial))
    moves = sum(a != b for a, b in pairwise(sizes))
    assert moves < 200
