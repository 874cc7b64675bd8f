"""Who a request says that it comes from: the Authorization header, read strictly.

What is malformed is an error, and never half understood: two ends that read one header in two ways
let in whom neither meant. No message and no ``repr`` shows what was in it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from typing import TYPE_CHECKING, Final

from .fields import is_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .http import Headers

__all__ = ["Passwords", "basic_credentials", "bearer_token", "challenge", "check_realm"]

# RFC 9110, section 11.4: credentials = auth-scheme [ 1*SP ( token68 / ... ) ]. Linear, and without
# possessive repetitions, for the reasons that `fields.py` gives.
_CREDENTIALS_RE: Final = re.compile(r"([^ ]+)(?: +([A-Za-z0-9\-._~+/]+=*))?")
_CONTROL_RE: Final = re.compile(rb"[\x00-\x1f\x7f]")
_REALM_RE: Final = re.compile(r"[\x20-\x7e]*")


def _token68(headers: Headers, scheme: str) -> str | None:
    """Return what stands behind this scheme; ``None`` where there is no such header.

    Raises `ValueError` where there is more than one, or one that breaks the grammar.
    """
    values = headers.get_all("Authorization")
    if not values:
        return None
    if len(values) > 1:
        raise ValueError("the request has several Authorization headers")
    given = values[0].partition(" ")[0]
    if not is_token(given):
        raise ValueError("the Authorization header is malformed")
    if given.lower() != scheme:
        return None  # another scheme has a grammar of its own
    match = _CREDENTIALS_RE.fullmatch(values[0])
    if match is None or match[2] is None:
        raise ValueError("the Authorization header is malformed")
    return match[2]


def basic_credentials(headers: Headers) -> tuple[bytes, bytes] | None:
    """Return the name and the password of Basic authorization (RFC 7617, section 2).

    ``None`` where the request has none; raises `ValueError` where it is malformed.
    """
    given = _token68(headers, "basic")
    if given is None:
        return None
    try:
        decoded = base64.b64decode(given, validate=True)
    except binascii.Error:
        decoded = b""
    # One way of writing it only: base64 has several where the last bits are not looked at.
    if base64.b64encode(decoded).decode() != given:
        raise ValueError("the credentials are not in base64")
    name, colon, password = decoded.partition(b":")
    if not colon:
        raise ValueError("the credentials have no colon between name and password")
    if _CONTROL_RE.search(decoded):
        raise ValueError("the credentials have a control character")
    return name, password


def bearer_token(headers: Headers) -> str | None:
    """Return the token of Bearer authorization (RFC 6750, section 2.1).

    ``None`` where the request has none; raises `ValueError` where it is malformed.
    """
    return _token68(headers, "bearer")


def check_realm(realm: object) -> str:
    """Return the realm that a caller of ours gave, or raise what is wrong with it."""
    if not isinstance(realm, str):
        raise TypeError(f"realm must be a str, not {type(realm).__name__}")
    if not _REALM_RE.fullmatch(realm):
        raise ValueError("realm must be printable ASCII: it goes into a header")
    return realm


def challenge(scheme: str, realm: str, **parameters: str) -> str:
    """Return a WWW-Authenticate header (RFC 9110, section 11.6.1)."""
    quoted = {
        name: value.replace("\\", "\\\\").replace('"', '\\"')
        for name, value in {"realm": realm, **parameters}.items()
    }
    return f"{scheme} " + ", ".join([f'{name}="{value}"' for name, value in quoted.items()])


class Passwords:
    """Names and passwords, of which only keyed digests are kept.

    Digests are what is compared, all of one length and in constant time (`hmac.compare_digest`);
    for a name that nobody has, with that of a password that nobody has. So how long it takes tells
    neither how much of a password was right, nor whether there is such a name.
    """

    def __init__(self, passwords: Mapping[str, str | bytes]) -> None:
        self._key = os.urandom(32)
        self._decoy = os.urandom(32)
        self._digests: dict[bytes, tuple[str, bytes]] = {}
        for name, password in passwords.items():
            if not isinstance(name, str):
                raise TypeError(f"a name must be a str, not {type(name).__name__}")
            if not isinstance(password, (str, bytes)):
                raise TypeError(f"a password must be str or bytes, not {type(password).__name__}")
            secret = password.encode() if isinstance(password, str) else password
            if ":" in name:
                raise ValueError(f"the name {name!r} has a colon, which ends a name")
            if _CONTROL_RE.search(name.encode()) or _CONTROL_RE.search(secret):
                raise ValueError("a name or a password has a control character")
            self._digests[name.encode()] = name, self._digest(secret)

    def __len__(self) -> int:
        return len(self._digests)

    def _digest(self, secret: bytes) -> bytes:
        return hashlib.blake2b(secret, key=self._key, digest_size=32).digest()

    def owner(self, name: bytes, password: bytes) -> str | None:
        """Return the name, as it was given to us, where this is its password."""
        known, expected = self._digests.get(name, (None, self._decoy))
        is_right = hmac.compare_digest(self._digest(password), expected)
        return known if is_right else None
