"""Hooks for ``on_request``: who is let in, by name, by token, by host, and how many from one place.

Each is a function of a `Request`, as a program's own are, and keeps no connection. The decisions
are in `_protocol/credentials.py` and `_protocol/origin.py`.
"""

from __future__ import annotations

import inspect
import ipaddress
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from ._config import RETRY_AFTER, check_range
from ._protocol.credentials import (
    Passwords,
    basic_credentials,
    bearer_token,
    challenge,
    check_realm,
)
from ._protocol.http import Reject
from ._protocol.origin import check_host, check_hosts_argument

if TYPE_CHECKING:
    from re import Pattern

    from ._protocol.http import Request

__all__ = ["AllowedHosts", "BasicAuth", "BearerAuth", "PerAddressLimit"]


class BasicAuth:
    """A hook that lets in who knows a name and its password (RFC 7617).

    ::

        await anyws.serve(handler, port=8080, on_request=anyws.BasicAuth({"ada": "s3cret"}))

    :param passwords: from names to passwords; of these, only keyed digests are kept
    :param realm: what the names are for, as a person may be shown; ASCII

    The name is in `Request.user` then. Others get 401, with a challenge; a header that is
    malformed, 400. Comparing takes the same time for any password, and for a name that nobody has.
    Passwords go over the network as they are: serve ``wss://``.
    """

    def __init__(self, passwords: Mapping[str, str | bytes], *, realm: str = "WebSocket") -> None:
        if not isinstance(passwords, Mapping):
            raise TypeError(f"passwords must be a mapping, not {type(passwords).__name__}")
        if not passwords:
            raise ValueError("passwords is empty: nobody could be let in")
        self._passwords = Passwords(passwords)
        self._challenge = challenge("Basic", check_realm(realm), charset="UTF-8")

    def __call__(self, request: Request) -> Reject | None:
        """Return the refusal, or ``None`` to let the client in."""
        try:
            credentials = basic_credentials(request.headers)
        except ValueError as error:
            return Reject(400, f"{error}\n")
        if credentials is not None:
            user = self._passwords.owner(*credentials)
            if user is not None:
                request.state["user"] = user
                return None
        return Reject(401, "who are you?\n", {"WWW-Authenticate": self._challenge})

    def __repr__(self) -> str:
        return f"<anyws.BasicAuth of {len(self._passwords)} names>"


class BearerAuth:
    """A hook that lets in who has a token that means something to the program (RFC 6750).

    ::

        async def whose(token):
            return await database.user_of(token)

        await anyws.serve(handler, port=8080, on_request=anyws.BearerAuth(whose))

    :param check: a function of the token, async or not. What it returns is in `Request.user` then;
        ``None`` and ``False`` refuse the client. Compare secrets with `hmac.compare_digest`
    :param realm: what the token is for, as a person may be shown; ASCII

    Clients without a token, or with one that is refused, get 401, with a challenge; a header that
    is malformed, 400. Where ``check`` raises, the client gets 500, and the log the traceback. It has
    ``Config.handshake_timeout`` to decide. In `anyws.sync` it cannot be async, nor be broken off:
    there, what it says too late lets nobody in.
    """

    is_async: bool
    """Whether the check is an async function."""

    def __init__(
        self, check: Callable[[str], Awaitable[Any] | Any], *, realm: str = "WebSocket"
    ) -> None:
        if not callable(check):
            raise TypeError(f"check must be a function of a token, not {type(check).__name__}")
        self.is_async = inspect.iscoroutinefunction(check)
        self._check = check
        self._realm = check_realm(realm)

    # Any: whether it is to be awaited follows from the check, and a server takes either.
    def __call__(self, request: Request) -> Any:
        """Return the refusal, or ``None`` to let the client in; or what is to be awaited for it."""
        try:
            token = bearer_token(request.headers)
        except ValueError as error:
            headers = self._challenge(error="invalid_request")
            return Reject(400, f"{error}\n", headers)
        if token is None:
            # RFC 6750, section 3.1: who has tried nothing is told of no error.
            return Reject(401, "who are you?\n", self._challenge())
        user = self._check(token)
        if inspect.isawaitable(user):
            return self._judge_later(request, user)
        return self._judge(request, user)

    async def _judge_later(self, request: Request, user: Awaitable[Any]) -> Reject | None:
        return self._judge(request, await user)

    def _judge(self, request: Request, user: Any) -> Reject | None:
        if user is None or user is False:
            return Reject(401, "who are you?\n", self._challenge(error="invalid_token"))
        request.state["user"] = user
        return None

    def _challenge(self, **parameters: str) -> dict[str, str]:
        return {"WWW-Authenticate": challenge("Bearer", self._realm, **parameters)}

    def __repr__(self) -> str:
        return "<anyws.BearerAuth>"


class AllowedHosts:
    """A hook that serves clients only under the names that a server is known by.

    Against pages that reach a server of a private network under a name of their own (DNS
    rebinding): then ``Origin`` and ``Host`` agree, and only the name is wrong.

    :param hosts: names and addresses, with a port or, for any port, without; and compiled patterns,
        which must match the Host header as a whole, as it was sent

    Others get 421. Of a name, case does not matter, and of an IPv6 address, its form. A client leaves
    out the port that is its scheme's own: then 80 and 443 are both right.
    """

    def __init__(self, hosts: Collection[str | Pattern[str]]) -> None:
        self._hosts = check_hosts_argument(hosts)

    def __call__(self, request: Request) -> Reject | None:
        """Return the refusal, or ``None`` to let the client in."""
        if check_host(request.host, self._hosts):
            return None
        return Reject(421, "this server is not known by that name\n")

    def __repr__(self) -> str:
        return f"<anyws.AllowedHosts {list(self._hosts)!r}>"


class PerAddressLimit:
    """A hook that lets in so many clients at a time from one address.

    :param limit: how many; a client counts from its request until its connection is over
    :param address: a function of a `Request` that tells where it comes from, as for a server behind
        a proxy; what it returns is counted by, and ``None`` is not limited. By default that is the
        address of the stream, IPv6 by the /64 that a network commonly has; what has none, as a
        Unix socket, is not limited

    Those beyond get 429, with ``Retry-After``. Give it in front of hooks that are costly. One may
    serve several servers, in any number of threads.
    """

    def __init__(self, limit: int, *, address: Callable[[Request], object] | None = None) -> None:
        check_range("limit", limit, 1, None)
        if address is not None and not callable(address):
            raise TypeError(f"address must be a function, not {type(address).__name__}")
        if inspect.iscoroutinefunction(address):
            raise TypeError("address must not be async: nobody waits for it")
        self._limit = limit
        self._address = address or address_of
        self._lock = threading.Lock()
        self._counts: dict[object, int] = {}

    def __call__(self, request: Request) -> Reject | None:
        """Return the refusal, or ``None`` to let the client in."""
        address = self._address(request)
        if address is None:
            return None
        with self._lock:
            count = self._counts.get(address, 0)
            if count >= self._limit:
                headers = {"Retry-After": str(RETRY_AFTER)}
                return Reject(429, "there are too many clients at this address\n", headers)
            self._counts[address] = count + 1
        request.on_end(lambda: self._release(address))
        return None

    def _release(self, address: object) -> None:
        with self._lock:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    @property
    def counts(self) -> dict[object, int]:
        """How many clients there are, by address: a copy."""
        with self._lock:
            return dict(self._counts)

    def __repr__(self) -> str:
        return f"<anyws.PerAddressLimit {self._limit}, {len(self.counts)} addresses>"


def address_of(request: Request) -> str | None:
    """Return what the clients of one place have in common; ``None`` where there is no address."""
    address = request.remote_address
    if not isinstance(address, tuple) or not address:
        return None
    try:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return str(address[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip)
