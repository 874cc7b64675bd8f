"""The peers: one adapter for each library that anyws is tested against."""

from .peer_aiohttp import Aiohttp
from .peer_trio_websocket import TrioWebsocket
from .peer_websockets import Websockets

PEERS = (Websockets(), Aiohttp(), TrioWebsocket())
