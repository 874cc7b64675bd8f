"""Bytes that look like frames, most of them in order, for Hypothesis."""

from __future__ import annotations

from frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, head
from hypothesis import strategies as st

_SIZES = [0, 1, 2, 7, 8, 15, 16, 17, 124, 125, 126, 127, 128, 511, 512, 513, 4095, 4097, 65535]
_KEYS = st.binary(min_size=4, max_size=4)


def _filled(piece: bytes, size: int) -> bytes:
    return (piece * (size // max(len(piece), 1) + 1))[:size] if piece else bytes(size)


# Small ones of any content, and large ones that repeat a piece.
payloads = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=40).map(str.encode),
    st.builds(_filled, st.binary(max_size=3), st.sampled_from([*_SIZES, 65536, 70000])),
    st.builds(_filled, st.sampled_from([b"a", b"ab\x7f"]), st.sampled_from(_SIZES)),
)


@st.composite
def _frames(draw: st.DrawFn, masked: bool) -> bytes:
    """A frame that may be taken, four times out of five."""
    payload = draw(payloads)
    mask = draw(_KEYS) if masked else False
    if draw(st.integers(0, 4)):
        return frame(draw(st.sampled_from([TEXT, BINARY])), payload, mask=mask)
    opcode = draw(st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11]))
    form = draw(st.sampled_from([None, 126, 127]))
    if form == 126 and len(payload) > 0xFFFF:
        form = None
    fin, rsv = draw(st.booleans()), draw(st.integers(0, 7))
    if draw(st.booleans()):
        return head(opcode, len(payload), fin=fin, rsv=rsv, mask=mask, form=form) + payload
    return frame(opcode, payload, fin=fin, rsv=rsv, mask=mask)


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """Frames one after another, sometimes with bytes altered, cut off, or not frames at all."""
    if not draw(st.integers(0, 9)):
        return draw(st.binary(max_size=200))
    masked = draw(st.booleans())
    data = bytearray(b"".join(draw(st.lists(_frames(masked), max_size=6))))
    if data and not draw(st.integers(0, 2)):
        for place in draw(st.lists(st.integers(0, len(data) - 1), max_size=4)):
            data[place] ^= draw(st.integers(1, 255))
    if not draw(st.integers(0, 2)):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)
