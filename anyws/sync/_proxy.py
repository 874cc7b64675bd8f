"""The way through a proxy, for programs without an event loop.

python-socks says to the proxy what there is to say, over a stream of ours (`_Talk`), which has the
deadline. See `_proxy.py`, of which this is the blocking half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._config import CHUNK_BYTES
from .._protocol.proxies import ConnectAnswer, lost, malformed, refused_by_socks, spoke_early
from .._proxy import arguments_for, lost_because, missing, unreachable_because
from .._transports.blocking_stream import OutOfTime, is_interruption

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from .._protocol.proxies import Proxy
    from .._protocol.url import URL
    from .._transports.blocking_stream import BlockingStream

__all__ = ["ask", "reach"]


def reach(
    proxy: Proxy, deadline: float, connect: Callable[[str, int, float], socket.socket]
) -> socket.socket:
    """Connect to the proxy itself. Raises `ProxyError`, and OutOfTime after the deadline."""
    _proxy_class(proxy)
    try:
        return connect(proxy.host, proxy.port, deadline)
    except OSError as error:
        if isinstance(error, OutOfTime) or is_interruption(error):
            raise
        raise unreachable_because(proxy, error) from error


def ask(
    proxy: Proxy, tls: ssl.SSLContext | None, url: URL, stream: BlockingStream, deadline: float
) -> None:
    """Have a proxy connect the stream to the server, over TLS with it if there is a context.

    Raises `ProxyError` for what the proxy does, OSError where a name is to be looked up here and
    is not found, and OutOfTime after the deadline.
    """
    from python_socks import ProxyError as Refused  # it is installed, as `reach` has found
    from python_socks import ProxyTimeoutError as Late

    if tls is not None:
        _encrypt(proxy, tls, stream, deadline)
    talk = _Talk(proxy, url, stream, deadline)
    arguments, host = arguments_for(proxy, url, talk)
    try:
        _proxy_class(proxy)(**arguments).connect(host, url.port)
    except Late as error:
        # That is python-socks' word for every TimeoutError. Ours says more.
        raise error.__cause__ or error from None
    except Refused as error:
        raise refused_by_socks(proxy, url, str(error), error.error_code) from None
    except UnicodeDecodeError:
        raise malformed(proxy) from None
    if talk.rest:
        raise spoke_early(proxy)


def _proxy_class(proxy: Proxy) -> Callable[..., Any]:
    try:
        from python_socks.sync.v2 import Proxy as BlockingProxy
    except ImportError as error:
        raise missing(proxy, error) from error
    return BlockingProxy


def _encrypt(proxy: Proxy, tls: ssl.SSLContext, stream: BlockingStream, deadline: float) -> None:
    try:
        stream.start_tls(tls, deadline, server_hostname=proxy.host)
    except OSError as error:
        if isinstance(error, OutOfTime) or is_interruption(error):
            raise
        raise unreachable_because(proxy, error) from error


class _Talk:
    """A stream as python-socks wants it, and what it gets that from.

    rest:
        What came behind the proxy's answers.
    """

    def __init__(self, proxy: Proxy, url: URL, stream: BlockingStream, deadline: float) -> None:
        self.rest = b""
        self._proxy = proxy
        self._answer = ConnectAnswer(proxy, url)
        self._stream = stream
        self._deadline = deadline

    def connect(self, **_: object) -> _Talk:
        return self

    def write(self, data: bytes) -> None:
        try:
            self._stream.send_all(self._stream.wrap(data), self._deadline)
        except OSError as error:
            if isinstance(error, OutOfTime) or is_interruption(error):
                raise
            raise lost_because(self._proxy, error) from error

    def read(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        """Return the answer to CONNECT. It is what python-socks reads without a length for."""
        answer = None
        while answer is None:
            answer = self._answer.receive_data(self._receive())
        return answer

    def read_exactly(self, n: int) -> bytes:
        while len(self.rest) < n:
            self.rest += self._receive()
        data, self.rest = self.rest[:n], self.rest[n:]
        return data

    def _receive(self) -> bytes:
        stream = self._stream
        try:
            while not stream.eof:
                if stream.fetch_in_time(self._deadline) and (data := stream.take()):
                    return data
        except OSError as error:
            if isinstance(error, OutOfTime) or is_interruption(error):
                raise
            raise lost_because(self._proxy, error) from error
        raise lost(self._proxy)

    def close(self) -> None:
        """Leave that to who opened it."""
