"""The echo server over TLS.

python examples/tls_server.py CERTIFICATE KEY [PORT]
"""

import ssl
import sys

import anyio

import anyws


async def echo(ws: anyws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(certificate: str, key: str, port: int) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with anyws.open_server(echo, host="127.0.0.1", port=port, ssl_context=context) as server:
        print(f"serving at {server.url}", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    try:
        anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 8443)
    except KeyboardInterrupt:
        print("bye")
