"""What both ends agree on about compression (RFC 7692, section 7.1).

Each direction has two parameters, a window and whether the history is taken over from one message
to the next. In a header they are named after the end that compresses: ``server_...`` is what the
server's compressor does. Here they are ours and theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from .._config import Deflate

__all__ = ["NAME", "Extensions", "Negotiated", "accept_offers", "accept_response", "offer"]

NAME: Final = "permessage-deflate"

Parameters: TypeAlias = list[tuple[str, str | None]]
Extensions: TypeAlias = list[tuple[str, Parameters]]

_SERVER_RESETS: Final = "server_no_context_takeover"
_CLIENT_RESETS: Final = "client_no_context_takeover"
_SERVER_BITS: Final = "server_max_window_bits"
_CLIENT_BITS: Final = "client_max_window_bits"

# RFC 7692, section 7.1.2: "a decimal integer value without leading zeroes between 8 to 15,
# inclusive". A table, since int() also takes "+9", "1_0" and digits of other scripts.
_WINDOW_BITS: Final = {str(bits): bits for bits in range(8, 16)}
# RFC 7692, sections 7.1.2.1 and 7.1.2.2: what the absence of the parameter stands for.
_LARGEST: Final = 15
# zlib cannot produce raw deflate data for a window of 8.
_NOT_OURS: Final = 8


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both ends agreed on.

    our_window_bits:
        Base-2 logarithm of our compressor's window, 9 to 15: what was agreed, or less where
        `Deflate` says so. ``None`` when a window of 8 was agreed, which zlib cannot produce: then
        nothing that we send is compressed (RFC 7692, section 6, leaves that to the sender).
    our_context_takeover:
        Whether our compressor keeps its history from one message to the next.
    their_window_bits:
        Base-2 logarithm of the window that the peer may use, 8 to 15.
    their_context_takeover:
        Whether the peer may keep its history.
    """

    our_window_bits: int | None
    our_context_takeover: bool
    their_window_bits: int
    their_context_takeover: bool


def offer(deflate: Deflate) -> str:
    """Return a client's ``Sec-WebSocket-Extensions``."""
    parts = [NAME]
    if not deflate.peer_context_takeover:
        parts.append(_SERVER_RESETS)
    if not deflate.context_takeover:
        parts.append(_CLIENT_RESETS)
    if deflate.peer_window_bits is not None:
        parts.append(f"{_SERVER_BITS}={deflate.peer_window_bits}")
    # Without a number: the server may choose one, and it costs us nothing to obey.
    parts.append(_CLIENT_BITS)
    return "; ".join(parts)


def accept_offers(extensions: Extensions, deflate: Deflate) -> tuple[str, Negotiated] | None:
    """Return a server's answer to the first offer that it can accept, and what it means.

    ``None`` when there is no such offer: the response then names no extension.
    """
    for name, parameters in extensions:
        if name != NAME:
            continue
        try:
            offered = _check(parameters, is_offer=True)
        except ValueError:
            # RFC 7692, section 7.1: an offer with such a defect "MUST" be declined. The next one
            # may do.
            continue
        if offered.get(_SERVER_BITS) != _NOT_OURS:
            return _accept(offered, deflate)
    return None


def accept_response(parameters: Parameters, deflate: Deflate) -> Negotiated:
    """Return what the server's parameters mean to the client that sent `offer`.

    Raises ValueError for a response that the client must not accept; the fault is the server's.
    """
    agreed = _check(parameters, is_offer=False)
    # RFC 7692, sections 7.1.1.1 and 7.1.2.1: a server accepts an offer with one of these two "by
    # including" it in the response; the alternative is to decline the offer.
    if not deflate.peer_context_takeover and _SERVER_RESETS not in agreed:
        raise ValueError(f"{_SERVER_RESETS} was offered and is missing from the response")
    limit = deflate.peer_window_bits
    if limit is not None:
        if _SERVER_BITS not in agreed:
            raise ValueError(f"{_SERVER_BITS}={limit} was offered and is missing from the response")
        if agreed[_SERVER_BITS] > limit:
            raise ValueError(
                f"{_SERVER_BITS}={agreed[_SERVER_BITS]} is more than the {limit} that was offered"
            )
    our_bits = agreed.get(_CLIENT_BITS, _LARGEST)
    return Negotiated(
        our_window_bits=None if our_bits == _NOT_OURS else min(our_bits, deflate.window_bits),
        # RFC 7692, section 7.1.1.2: in an offer this is only a hint to the server, but nothing
        # keeps a client from doing what it announced.
        our_context_takeover=deflate.context_takeover and _CLIENT_RESETS not in agreed,
        their_window_bits=agreed.get(_SERVER_BITS, _LARGEST),
        their_context_takeover=_SERVER_RESETS not in agreed,
    )


def _accept(offered: dict[str, int], deflate: Deflate) -> tuple[str, Negotiated]:
    parts = [NAME]
    # RFC 7692, sections 7.1.1.1 and 7.1.1.2: both may be in a response unasked.
    our_takeover = deflate.context_takeover and _SERVER_RESETS not in offered
    if not our_takeover:
        parts.append(_SERVER_RESETS)
    their_takeover = deflate.peer_context_takeover and _CLIENT_RESETS not in offered
    if not their_takeover:
        parts.append(_CLIENT_RESETS)

    our_bits = deflate.window_bits
    if _SERVER_BITS in offered:
        our_bits = min(our_bits, offered[_SERVER_BITS])
        parts.append(f"{_SERVER_BITS}={our_bits}")
    # A number that the client offered for itself is a promise to stay below it (RFC 7692, section
    # 7.1.2.2). We inflate with 15 all the same unless we answered with a number: no answer means
    # 15, a larger window decodes whatever a smaller one does, and what it costs a client that
    # keeps its promise is address space more than memory.
    their_bits = _LARGEST
    # The same section: without the client's offer "the server MUST NOT" answer with a number.
    if _CLIENT_BITS in offered and deflate.peer_window_bits is not None:
        their_bits = min(offered[_CLIENT_BITS], deflate.peer_window_bits)
        parts.append(f"{_CLIENT_BITS}={their_bits}")
    return "; ".join(parts), Negotiated(our_bits, our_takeover, their_bits, their_takeover)


# RFC 7692, section 7.1: unknown names, names given twice and bad values make a list invalid. The
# value of a parameter that needs none is 0 here, and 15 for client_max_window_bits alone.
def _check(parameters: Parameters, *, is_offer: bool) -> dict[str, int]:
    checked: dict[str, int] = {}
    for name, value in parameters:
        if name in checked:
            raise ValueError(f"{name} is given twice")
        if name in (_SERVER_RESETS, _CLIENT_RESETS):
            if value is not None:
                raise ValueError(f"{name} takes no value")
            checked[name] = 0
        elif name in (_SERVER_BITS, _CLIENT_BITS):
            if value is None:
                # Section 7.1.2.2: only a client may leave the number out, and only its own.
                if name == _SERVER_BITS or not is_offer:
                    raise ValueError(f"{name} has no value")
                checked[name] = _LARGEST
            elif value in _WINDOW_BITS:
                checked[name] = _WINDOW_BITS[value]
            else:
                raise ValueError(f"{name} is {value!r:.40}, not a number from 8 to 15")
        else:
            raise ValueError(f"the parameter {name!r:.40} is unknown")
    return checked
