"""An echo client without limits, for Autobahn: python echo_client.py [--backend NAME] URL

It asks the fuzzing server at URL how many cases there are, takes part in each, and ends.
"""

from __future__ import annotations

import argparse
from urllib.parse import quote

from backends import BACKENDS, run
from echo_server import CONFIG

import anyws
import anyws.sync


async def main(url: str, agent: str) -> None:
    async with anyws.open_websocket(f"{url}/getCaseCount", config=CONFIG) as ws:
        count = await ws.receive_json()
    for case in range(1, count + 1):
        await take_part(f"{url}/runCase?case={case}&agent={quote(agent)}")
    async with anyws.open_websocket(f"{url}/updateReports?agent={quote(agent)}", config=CONFIG):
        pass


async def take_part(url: str) -> None:
    try:
        async with anyws.open_websocket(url, config=CONFIG) as ws:
            async for message in ws:
                await ws.send(message)
    except anyws.ConnectionClosed:
        pass  # many cases break the protocol on purpose: the fuzzing server is the judge


def main_blocking(url: str, agent: str) -> None:
    with anyws.sync.open_websocket(f"{url}/getCaseCount", config=CONFIG) as ws:
        count = ws.receive_json()
    for case in range(1, count + 1):
        take_part_blocking(f"{url}/runCase?case={case}&agent={quote(agent)}")
    with anyws.sync.open_websocket(f"{url}/updateReports?agent={quote(agent)}", config=CONFIG):
        pass


def take_part_blocking(url: str) -> None:
    try:
        with anyws.sync.open_websocket(url, config=CONFIG) as ws:
            for message in ws:
                ws.send(message)
    except anyws.ConnectionClosed:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--backend", choices=BACKENDS, default="asyncio")
    parser.add_argument("--agent", default="anyws")
    options = parser.parse_args()
    if options.backend == "blocking":
        main_blocking(options.url, options.agent)
    else:
        run(options.backend, main, options.url, options.agent)
