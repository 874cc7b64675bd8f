"""Compressed messages: permessage-deflate (RFC 7692), as an extension of wsproto's.

wsproto's own loses its place when a ping comes between fragments, inflates without bound and fails
after a final deflate block, so only its interface is used.

`inflate` and `deflate` are the core. The methods of wsproto's interface call them, and so may
whoever encodes and decodes whole frames without wsproto: the contexts are here, once.

Inbound, all that is remembered belongs to data frames, and control frames pass by:

==================  ============================================================
what                changes
==================  ============================================================
is it a data frame  at each header
compressed message  at the header of a message's first frame
within a message    at the end of each data frame
==================  ============================================================

wsproto shows a header again when the masking key behind it was still missing, so reading one twice
must be reading it once.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Final, TypeAlias

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

from .._close import CloseCode
from .._config import MAX_INFLATE_RESTARTS, Deflate
from .negotiation import NAME, Negotiated

if TYPE_CHECKING:
    from wsproto.frame_protocol import FrameDecoder, FrameProtocol

    Compressor: TypeAlias = zlib._Compress
    Decompressor: TypeAlias = zlib._Decompress

__all__ = ["InflateError", "PerMessageDeflate", "Settings", "deflate_alone"]

# Of a compressor: level, window bits, memory level.
Settings: TypeAlias = tuple[int, int, int]

# RFC 7692, section 7.2.1: what a sender removes from the end of each message: the lengths of an
# empty stored block, of which the message keeps the header.
_TAIL: Final = b"\x00\x00\xff\xff"
# A whole empty stored block: the header, padded to a byte, and those lengths.
_EMPTY_BLOCK: Final = b"\x00" + _TAIL
# An end of a message that tells whether it was one. After a proper message the tail completes a
# block and one more empty block changes nothing; inside a block that was cut short they become
# output or an error. zlib has no way to ask, and data that is missing would pass for a message.
_END: Final = _TAIL + _EMPTY_BLOCK

_NO_BITS: Final = RsvBits(False, False, False)
_RSV1: Final = RsvBits(True, False, False)
# Room for one more byte must fit what zlib takes for a length.
_UNBOUNDED: Final = sys.maxsize - 1


class InflateError(Exception):
    """The peer's compressed message cannot be taken.

    code:
        1007 for data that is not deflate data, 1009 for more than the limits allow.
    """

    def __init__(self, code: CloseCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class PerMessageDeflate(Extension):
    """The compression contexts of one connection, both directions.

    compress:
        What to do with the next message that is sent: compress it, send it as it is, or, with
        ``None``, compress it unless it is short. Read at a message's first frame. A program has
        to say false where a secret and text of an attacker's choice share a connection (RFC 7692,
        section 8); that leaves the context as it is.
    failure:
        What was wrong with the peer's data, once a method of wsproto's interface has answered
        with a `CloseReason`; wsproto itself says "error in extension".
    """

    name = NAME

    def __init__(
        self, negotiated: Negotiated, deflate: Deflate, max_message_size: int | None
    ) -> None:
        self.compress: bool | None = None
        self.failure: str | None = None
        self._negotiated = negotiated
        self._config = deflate
        self._limit = _UNBOUNDED if max_message_size is None else min(max_message_size, _UNBOUNDED)

        # Contexts are made when first used: most connections are idle, and many never send or
        # never receive anything that is worth compressing.
        self._compressor: Compressor | None = None
        self._sends_compressed = False

        self._decompressor: Decompressor | None = None
        self._room = 0
        self._restarts = 0
        self._has_ended = False

        self._is_data = False
        self._is_within = False
        self._is_compressed = False
        self._is_unread = False

    # --- The core ---

    def inflate(self, data: bytes, *, first: bool, final: bool) -> bytes:
        """Return what the next piece of a compressed message stands for.

        Raises InflateError. The connection has to fail then: the context is of no use any more.
        """
        if first:
            self._room = self._limit
            self._restarts = 0
            self._has_ended = False
        output = self._inflate(data) if data else b""
        if final:
            self._finish()
        return output

    # Each call of zlib may produce one byte more than there is room for. With less than that
    # produced, it has taken all of its input, so nothing is ever left to ask for.
    def _inflate(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        while data:
            decompressor = self._decompressor or self._start()
            try:
                piece = decompressor.decompress(data, self._room + 1)
            except zlib.error as error:
                raise InflateError(
                    CloseCode.INVALID_DATA, f"bad compressed data: {error}"
                ) from None
            if len(piece) > self._room:
                raise InflateError(
                    CloseCode.MESSAGE_TOO_BIG,
                    f"the message inflates to more than {self._limit} bytes",
                )
            self._room -= len(piece)
            pieces.append(piece)
            if not decompressor.eof:
                break
            self._has_ended = True
            self._decompressor = None
            # A copy of the rest for each restart, and restarts are counted.
            data = decompressor.unused_data
        return b"".join(pieces)

    # RFC 7692, section 7.2.3.4, allows a final block (BFINAL=1) at any place; what follows it is
    # another deflate stream. The new one starts without history, although the section on context
    # takeover can be read as keeping the window. A final block shows only when it ends, so keeping
    # it takes the last 32 KiB of output at all times: as much again as zlib's own window, and
    # twice that copied for each message, however short. Senders with zlib reset at a final block.
    # The connection of one that kept its history fails with 1007, and nothing worse happens: a
    # reference to before the beginning of a stream is an error.
    def _start(self) -> Decompressor:
        if self._has_ended:
            self._restarts += 1
            if self._restarts > MAX_INFLATE_RESTARTS:
                raise InflateError(
                    CloseCode.MESSAGE_TOO_BIG,
                    f"the message restarts its deflate stream over {MAX_INFLATE_RESTARTS} times",
                )
        # zlib checks this window for references into the output of earlier calls. Within that of
        # one call it lets longer ones pass, and they mean what their sender meant.
        self._decompressor = zlib.decompressobj(-self._negotiated.their_window_bits)
        return self._decompressor

    def _finish(self) -> None:
        # Nothing is completed by the tail where the stream ended together with the message.
        if self._decompressor is not None or not self._has_ended:
            decompressor = self._decompressor or self._start()
            try:
                is_cut_short = bool(decompressor.decompress(_END, 1))
            except zlib.error:
                is_cut_short = True
            if is_cut_short:
                raise InflateError(CloseCode.INVALID_DATA, "the compressed data is cut short")
            if decompressor.eof:
                self._decompressor = None
        if not self._negotiated.their_context_takeover:
            self._decompressor = None

    def wants(self, size: int, *, final: bool) -> bool:
        """Tell whether to compress a message whose first frame has this payload size.

        Of a message in fragments the size is not known at its first: those are compressed.
        """
        if self._negotiated.our_window_bits is None:
            return False
        if self.compress is None:
            return not final or size >= self._config.threshold
        return self.compress

    def deflate(self, data: bytes, *, first: bool, final: bool) -> bytes:
        """Return the payload of a compressed message's next frame.

        The peer can decode each frame when it arrives. The result may be larger than the data,
        and has to be sent all the same: the context has moved.
        """
        if self._compressor is None:
            bits = self._negotiated.our_window_bits
            assert bits is not None, "compression was not wanted"
            self._compressor = zlib.compressobj(
                self._config.level, zlib.DEFLATED, -bits, self._config.mem_level
            )
        output = self._compressor.compress(data)
        flushed = self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if not final:
            return output + flushed
        if not self._negotiated.our_context_takeover:
            self._compressor = None
        # zlib may flush nothing when there is nothing new, as for an empty message. RFC 7692,
        # section 7.2.3.6: an empty block then stands for it.
        return output + (flushed or _EMPTY_BLOCK)[: -len(_TAIL)]

    # --- What many connections share ---

    def would_compress(self, size: int, compress: bool | None) -> bool:
        """Tell whether to compress a whole message with a payload of so many bytes."""
        self.compress = compress
        return self.wants(size, final=True)

    @property
    def settings(self) -> Settings:
        """How a whole message is compressed here, its context aside."""
        bits = self._negotiated.our_window_bits
        assert bits is not None, "compression was not wanted"
        return self._config.level, bits, self._config.mem_level

    def forget_sent(self) -> None:
        """Begin with no context: the peer has, or will have, inflated what is not in ours."""
        self._compressor = None

    # --- The end ---

    def drop_contexts(self) -> None:
        """Free the memory of both directions, once nothing more is read or sent."""
        self._compressor = None
        self._decompressor = None

    # --- wsproto's interface ---

    def enabled(self) -> bool:
        return True

    # The handshake is not wsproto's.
    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        self._is_data = not opcode.iscontrol()
        if not self._is_data or opcode is Opcode.CONTINUATION:
            # RFC 7692, section 6: only a message's first frame has the bit set.
            if rsv.rsv1:
                kind = "continuation" if self._is_data else "control"
                return self._fail(CloseReason.PROTOCOL_ERROR, f"a {kind} frame has RSV1 set")
            return _NO_BITS
        # A new message inside another is refused by wsproto when it has the payload: until then
        # it must not be inflated as a part of the other.
        self._is_compressed = rsv.rsv1 and not self._is_within
        self._is_unread = True
        return _RSV1

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        if not (self._is_data and self._is_compressed):
            return data
        return self._inflate_next(data, final=False)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        if not self._is_data:
            return None
        self._is_within = not fin
        if not (fin and self._is_compressed):
            return None
        self._is_compressed = False
        return self._inflate_next(b"", final=True)

    def _inflate_next(self, data: bytes, *, final: bool) -> bytes | CloseReason:
        first, self._is_unread = self._is_unread, False
        try:
            return self.inflate(data, first=first, final=final)
        except InflateError as error:
            return self._fail(CloseReason(error.code), str(error))

    def _fail(self, code: CloseReason, text: str) -> CloseReason:
        self.failure = text
        return code

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,
    ) -> tuple[RsvBits, bytes]:
        if opcode.iscontrol():
            return rsv, data
        first = opcode is not Opcode.CONTINUATION
        if first:
            self._sends_compressed = self.wants(len(data), final=fin)
        if not self._sends_compressed:
            return rsv, data
        payload = self.deflate(data, first=first, final=fin)
        return RsvBits(first, rsv.rsv2, rsv.rsv3), payload


def deflate_alone(data: bytes, settings: Settings) -> bytes:
    """Return the payload of a whole message, compressed with no context."""
    level, bits, mem_level = settings
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits, mem_level)
    output = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
    # As in `PerMessageDeflate.deflate`, which may find nothing to flush.
    return output[: -len(_TAIL)] if output else _EMPTY_BLOCK[: -len(_TAIL)]
