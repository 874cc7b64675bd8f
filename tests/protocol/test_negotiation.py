"""What is offered, accepted, declined and refused: permessage-deflate in the handshake."""

from __future__ import annotations

import itertools

import pytest

from anyws._config import Deflate
from anyws._protocol.negotiation import (
    Extensions,
    Negotiated,
    accept_offers,
    accept_response,
    offer,
)

NAME = "permessage-deflate"
# What of a default Config reaches a compressor: 12 bits at most.
OURS = Deflate().window_bits


def parse(header: str) -> Extensions:
    extensions: Extensions = []
    for item in header.split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        extensions.append((name, [(key, value if sign else None) for key, sign, value in pairs]))
    return extensions


def accept(header: str, deflate: Deflate | None = None) -> tuple[str, Negotiated] | None:
    return accept_offers(parse(header), deflate or Deflate())


def respond(header: str, deflate: Deflate | None = None) -> Negotiated:
    ((_, parameters),) = parse(header)
    return accept_response(parameters, deflate or Deflate())


BAD_VALUES: list[str | None] = [
    *["", "abc", "7", "16", "99", "010", "08", "+9", "-9", " 9", "9 ", "1_0", "0x9", "9.0", "1e1"],
    *["\u0661\u0660", '"10"', "10" * 200, "8-15"],
]
# Names and values that are wrong in an offer and in a response alike.
BAD_PARAMETERS: list[list[tuple[str, str | None]]] = [
    [("unknown", None)],
    [("server_no_context_takeoverXX", "3")],
    [("Server_No_Context_Takeover", None)],
    [("", None)],
    [("server_max_window_bits", None)],
    [("server_no_context_takeover", None)] * 2,
    [("client_no_context_takeover", None)] * 2,
    [("server_max_window_bits", "10")] * 2,
    [("server_max_window_bits", "10"), ("server_max_window_bits", "11")],
    [("client_max_window_bits", "10"), ("client_max_window_bits", "11")],
]
SOME_VALUES: list[str | None] = ["", "1", "true", "10"]
for _end in ("server", "client"):
    BAD_PARAMETERS += [[(f"{_end}_no_context_takeover", value)] for value in SOME_VALUES]
    BAD_PARAMETERS += [[(f"{_end}_max_window_bits", value)] for value in BAD_VALUES]


# --- The offer ---


def test_the_default_offer_names_no_numbers() -> None:
    """D-6."""
    assert offer(Deflate()) == "permessage-deflate; client_max_window_bits"


@pytest.mark.parametrize(
    ("deflate", "parameter"),
    [
        (Deflate(context_takeover=False), "client_no_context_takeover"),
        (Deflate(peer_context_takeover=False), "server_no_context_takeover"),
        (Deflate(peer_window_bits=10), "server_max_window_bits=10"),
    ],
)
def test_an_offer_carries_what_the_program_asks_for(deflate: Deflate, parameter: str) -> None:
    """D-3, D-5."""
    name, *parameters = offer(deflate).split("; ")
    assert name == NAME
    assert sorted(parameters) == sorted([parameter, "client_max_window_bits"])


@pytest.mark.parametrize("window_bits", range(9, 16))
def test_our_own_window_is_never_in_an_offer(window_bits: int) -> None:
    """D-24, W7."""
    assert offer(Deflate(window_bits=window_bits)) == offer(Deflate())


# --- A server's answer ---


def test_a_plain_offer_is_accepted_plainly() -> None:
    """D-9."""
    assert accept(NAME) == (NAME, Negotiated(OURS, True, 15, True))


def test_the_offer_of_a_browser_is_accepted() -> None:
    """D-6."""
    assert accept(f"{NAME}; client_max_window_bits") == (NAME, Negotiated(OURS, True, 15, True))


@pytest.mark.parametrize("parameters", BAD_PARAMETERS, ids=str)
def test_an_offer_with_a_bad_parameter_is_declined(
    parameters: list[tuple[str, str | None]],
) -> None:
    """D-1, D-3, D-4, D-5, W4, W6."""
    assert accept_offers([(NAME, parameters)], Deflate()) is None


@pytest.mark.parametrize("parameters", BAD_PARAMETERS, ids=str)
def test_a_declined_offer_leaves_no_trace_on_the_next(
    parameters: list[tuple[str, str | None]],
) -> None:
    """D-1, R-104, W6."""
    bad = [
        ("client_no_context_takeover", None),
        ("server_no_context_takeover", None),
        *parameters,
    ]
    assert accept_offers([(NAME, bad), (NAME, [])], Deflate()) == accept(NAME)


def test_the_first_acceptable_offer_decides() -> None:
    """R-104."""
    answer = accept(
        f"{NAME}; server_max_window_bits=8, {NAME}; server_max_window_bits=10, {NAME}",
    )
    assert answer == (f"{NAME}; server_max_window_bits=10", Negotiated(10, True, 15, True))


def test_other_extensions_are_passed_over() -> None:
    """R-104."""
    assert accept(f"x-webkit-deflate-frame, {NAME.upper()}, {NAME}, bbf-usp") == accept(NAME)


@pytest.mark.parametrize("header", ["x-webkit-deflate-frame", NAME.upper()])
def test_without_an_offer_there_is_no_answer(header: str) -> None:
    """R-104."""
    assert accept(header) is None
    assert accept_offers([], Deflate()) is None


def test_a_server_declines_to_compress_with_a_window_of_8() -> None:
    """D-24, W7."""
    assert accept(f"{NAME}; server_max_window_bits=8") is None


@pytest.mark.parametrize(
    ("offered", "configured"), list(itertools.product(range(9, 16), range(9, 16)))
)
def test_a_server_answers_with_the_smaller_window(offered: int, configured: int) -> None:
    """D-5."""
    smaller = min(offered, configured)
    assert accept(f"{NAME}; server_max_window_bits={offered}", Deflate(window_bits=configured)) == (
        f"{NAME}; server_max_window_bits={smaller}",
        Negotiated(smaller, True, 15, True),
    )


@pytest.mark.parametrize(
    ("offered", "configured"), list(itertools.product([None, *range(8, 16)], range(9, 16)))
)
def test_a_server_never_exceeds_the_window_that_a_client_offers_for_itself(
    offered: int | None, configured: int
) -> None:
    """D-8."""
    value = "" if offered is None else f"={offered}"
    smaller = min(offered or 15, configured)
    assert accept(
        f"{NAME}; client_max_window_bits{value}", Deflate(peer_window_bits=configured)
    ) == (f"{NAME}; client_max_window_bits={smaller}", Negotiated(OURS, True, smaller, True))


def test_a_client_that_cannot_change_its_window_is_not_told_to() -> None:
    """D-7."""
    assert accept(NAME, Deflate(peer_window_bits=10)) == accept(NAME)


@pytest.mark.parametrize("bits", range(8, 16))
def test_an_answer_without_a_number_means_15(bits: int) -> None:
    """D-8, D-9."""
    assert accept(f"{NAME}; client_max_window_bits={bits}") == accept(NAME)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("configured", [False, True])
def test_a_server_drops_its_history_when_either_end_says_so(asked: bool, configured: bool) -> None:
    """D-10."""
    header = f"{NAME}; server_no_context_takeover" if asked else NAME
    expected = f"{NAME}; server_no_context_takeover" if asked or configured else NAME
    assert accept(header, Deflate(context_takeover=not configured)) == (
        expected,
        Negotiated(OURS, not (asked or configured), 15, True),
    )


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("configured", [False, True])
def test_a_client_drops_its_history_when_either_end_says_so(asked: bool, configured: bool) -> None:
    """D-10."""
    header = f"{NAME}; client_no_context_takeover" if asked else NAME
    expected = f"{NAME}; client_no_context_takeover" if asked or configured else NAME
    assert accept(header, Deflate(peer_context_takeover=not configured)) == (
        expected,
        Negotiated(OURS, True, 15, not (asked or configured)),
    )


# --- What a client makes of the answer ---


def test_a_plain_response_means_windows_of_15_and_histories() -> None:
    """D-9."""
    assert respond(NAME) == Negotiated(OURS, True, 15, True)
    assert respond(NAME, Deflate(window_bits=15)) == Negotiated(15, True, 15, True)


@pytest.mark.parametrize("parameters", BAD_PARAMETERS, ids=str)
def test_a_response_with_a_bad_parameter_is_refused(
    parameters: list[tuple[str, str | None]],
) -> None:
    """D-2, D-3, D-4, W5, W6."""
    with pytest.raises(ValueError, match=r"takes no value|not a number|unknown|twice|has no value"):
        accept_response(parameters, Deflate())


def test_a_response_has_to_name_the_window_of_the_client() -> None:
    """D-6."""
    with pytest.raises(ValueError, match="client_max_window_bits has no value"):
        respond(f"{NAME}; client_max_window_bits")


def test_the_words_of_a_refusal_are_short_and_plain() -> None:
    """D-2, W28."""
    with pytest.raises(ValueError, match="client_max_window_bits is") as caught:
        accept_response([("client_max_window_bits", "\x1b[2J\n" * 1000)], Deflate())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 123


@pytest.mark.parametrize(
    ("agreed", "configured"), list(itertools.product(range(9, 16), range(9, 16)))
)
def test_a_client_compresses_with_the_smaller_window(agreed: int, configured: int) -> None:
    """D-8."""
    assert respond(
        f"{NAME}; client_max_window_bits={agreed}", Deflate(window_bits=configured)
    ) == Negotiated(min(agreed, configured), True, 15, True)


def test_a_client_that_is_told_8_does_not_compress() -> None:
    """D-24, W7."""
    assert respond(f"{NAME}; client_max_window_bits=8") == Negotiated(None, True, 15, True)


@pytest.mark.parametrize("bits", range(8, 16))
def test_a_client_accepts_any_window_of_a_server_that_it_did_not_limit(bits: int) -> None:
    """D-4, W7."""
    assert respond(f"{NAME}; server_max_window_bits={bits}") == Negotiated(OURS, True, bits, True)


@pytest.mark.parametrize(("bits", "limit"), list(itertools.product(range(8, 16), range(9, 16))))
def test_a_client_refuses_a_server_that_exceeds_the_window_it_was_offered(
    bits: int, limit: int
) -> None:
    """D-5."""
    header, deflate = f"{NAME}; server_max_window_bits={bits}", Deflate(peer_window_bits=limit)
    if bits > limit:
        with pytest.raises(ValueError, match="is more than"):
            respond(header, deflate)
    else:
        assert respond(header, deflate) == Negotiated(OURS, True, bits, True)


def test_a_client_refuses_a_server_that_passes_over_the_window_it_was_offered() -> None:
    """D-5, D-9."""
    with pytest.raises(ValueError, match="server_max_window_bits=10 was offered"):
        respond(NAME, Deflate(peer_window_bits=10))


def test_a_client_refuses_a_server_that_keeps_the_history_it_was_asked_to_drop() -> None:
    """D-2."""
    with pytest.raises(ValueError, match="server_no_context_takeover was offered"):
        respond(NAME, Deflate(peer_context_takeover=False))


def test_a_client_obeys_what_a_server_says_unasked() -> None:
    """D-10."""
    assert respond(f"{NAME}; client_no_context_takeover; server_no_context_takeover") == Negotiated(
        OURS, False, 15, False
    )


def test_a_client_drops_its_history_though_the_server_does_not_mention_it() -> None:
    """D-10."""
    assert respond(NAME, Deflate(context_takeover=False)) == Negotiated(OURS, False, 15, True)


# --- Both together ---


@pytest.mark.parametrize("client_bits", [None, 9, 12, 15])
@pytest.mark.parametrize("server_bits", [None, 9, 12, 15])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=4)), ids=str)
def test_both_ends_mean_the_same(
    client_bits: int | None, server_bits: int | None, flags: tuple[bool, bool, bool, bool]
) -> None:
    """D-1, D-2, D-5, D-8, D-10."""
    client = Deflate(
        context_takeover=flags[0], peer_context_takeover=flags[1], peer_window_bits=client_bits
    )
    server = Deflate(
        context_takeover=flags[2], peer_context_takeover=flags[3], peer_window_bits=server_bits
    )
    answer = accept(offer(client), server)
    assert answer is not None
    header, at_server = answer
    at_client = respond(header, client)
    assert at_client.our_context_takeover is at_server.their_context_takeover
    assert at_client.their_context_takeover is at_server.our_context_takeover
    assert at_client.our_window_bits is not None
    assert at_client.our_window_bits <= at_server.their_window_bits
    assert at_server.our_window_bits is not None
    assert at_server.our_window_bits <= at_client.their_window_bits
