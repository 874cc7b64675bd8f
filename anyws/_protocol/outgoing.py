"""What a program may send: checked, and safe from change, before anything else happens. And JSON."""

from __future__ import annotations

import json
from typing import Any, NoReturn

__all__ = ["as_binary", "as_json", "as_message", "as_text", "check_fragment", "parse_json"]


def as_message(item: object) -> str | bytes:
    """Return the message to send: `str` for a text message, `bytes` for a binary one."""
    if isinstance(item, str):
        return as_text(item)
    return as_binary(item)


def as_text(data: object, errors: str = "strict") -> str:
    """Return the text of a text message."""
    if errors not in {"strict", "replace"}:
        raise ValueError(f"errors must be 'strict' or 'replace', not {errors!r}")
    if not isinstance(data, str):
        try:
            return str(as_binary(data), "utf-8", errors)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"the bytes of the text message are not UTF-8: {error.reason} at {error.start}"
            ) from None
    if not data.isascii():
        try:
            data.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                "the text message cannot be sent: it has a lone surrogate, "
                f"{data[error.start]!a}, at index {error.start}"
            ) from None
    return data


def as_binary(data: object) -> bytes:
    """Return the bytes of a binary message."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray):
        return bytes(data)
    if isinstance(data, memoryview):
        # len() of other formats counts items, not bytes: what was meant is the caller's to say.
        if data.itemsize != 1:
            raise TypeError(
                f"the memoryview has items of {data.itemsize} bytes (format {data.format!r}): "
                'send view.cast("B") for its bytes'
            )
        return data.tobytes()
    if isinstance(data, str):
        return as_text(data).encode()
    kind = type(data)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    raise TypeError(f"a message must be str, bytes, bytearray or memoryview, not {name}")


def check_fragment(data: str | bytes, kind: type[str] | type[bytes] | None) -> None:
    """Raise TypeError for a fragment that is not of the type of those before it, if there are."""
    if kind not in {None, type(data)}:
        wanted, given = ("text", "binary") if kind is str else ("binary", "text")
        raise TypeError(f"the message is {wanted}, and this fragment is {given}")


# --- JSON ---


def as_json(data: object) -> str:
    """Return the JSON of something; raises TypeError or ValueError where there is none."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse_json(message: str | bytes) -> Any:
    """Return what a message is in JSON; raises ValueError where it is none."""
    try:
        return _decoder.decode(message if isinstance(message, str) else message.decode())
    except RecursionError:
        raise ValueError("the message is JSON nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the message is no JSON: there is no {name} in it")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
