"""A client that trusts one certificate authority of its own instead of the system's.

python examples/tls_client.py URL CA_CERTIFICATE
"""

import ssl
import sys

import anyio

import anyws


async def main(url: str, authority: str) -> None:
    # Without ssl_context=, wss:// trusts the authorities that the system trusts.
    context = ssl.create_default_context(cafile=authority)
    async with anyws.open_websocket(url, ssl_context=context) as ws:
        await ws.send("hello, privately")
        print(await ws.receive())


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
