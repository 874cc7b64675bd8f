"""The arguments of the command, checked as far as they can be before anything runs."""

from __future__ import annotations

import argparse
import importlib.metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["parse"]

_BACKENDS = ("asyncio", "uvloop", "trio")
_LEVELS = ("debug", "info", "warning", "error")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; where they make no sense, say so and end with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "serve":
        _check_serve(parser, options)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="anyws", description="WebSocket on asyncio and Trio, from the command line."
    )
    parser.add_argument("--version", action="version", version=f"anyws {_version()}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--backend",
        choices=_BACKENDS,
        default="asyncio",
        help="what runs the command (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    add("demo", "Show what it does, over loopback, and check that it does.")

    echo = add("echo", "Serve WebSockets and send every message back, until Ctrl-C.")
    echo.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    echo.add_argument(
        "--port", type=_port, default=8080, help="0 lets the system choose (default: %(default)s)"
    )

    connect = add("connect", "Send lines as text messages, and print the messages that come.")
    connect.add_argument("url", metavar="URL", help="ws:// or wss://")
    connect.add_argument(
        "--subprotocol",
        action="append",
        default=[],
        metavar="NAME",
        help="to offer; may come again, the preferred first",
    )
    connect.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        help="to send with the request; may come again",
    )
    connect.add_argument("--origin", help="the Origin header")
    connect.add_argument(
        "--wait",
        type=_seconds,
        default=0.5,
        metavar="SECONDS",
        help="for answers, between the end of input and closing (default: %(default)s)",
    )

    _add_serve(add("serve", "Serve the handlers of a program, until SIGTERM or Ctrl-C."))
    return parser


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "targets",
        nargs="+",
        metavar="[SUBPROTOCOL=]MODULE:NAME",
        type=_target,
        help="a handler, a mapping of them, or Routes; or one handler for each subprotocol",
    )
    serve.add_argument(
        "--default",
        type=_name,
        metavar="MODULE:NAME",
        help="a handler for clients that offer none of the subprotocols",
    )
    serve.add_argument(
        "--on-request",
        type=_name,
        metavar="MODULE:NAME",
        help="a function that is asked about every request, or a sequence of them",
    )
    serve.add_argument(
        "--origin",
        action="append",
        metavar="ORIGIN",
        help="which pages of other sites may come; may come again; '*' for all",
    )
    serve.add_argument("--config", type=_name, metavar="MODULE:NAME", help="a Config")
    serve.add_argument(
        "--drain-timeout",
        type=_seconds,
        metavar="SECONDS",
        help="what handlers have to end in (default: the Config's, 10)",
    )
    serve.add_argument(
        "--host",
        action="append",
        help="address; may come again; '*' for all (default: 127.0.0.1)",
    )
    serve.add_argument("--port", type=_port, help="0 lets the system choose (default: 8080)")
    serve.add_argument("--cert", metavar="FILE", help="certificate with its chain, for wss://")
    serve.add_argument("--key", metavar="FILE", help="its key, where that is a file of its own")
    serve.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="so many processes, restarted one by one by SIGHUP (default: this process alone)",
    )
    serve.add_argument(
        "--log-level",
        choices=_LEVELS,
        default="info",
        help="what is logged, to standard error (default: %(default)s)",
    )


def _check_serve(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    names = [subprotocol for subprotocol, _ in options.targets]
    if len(names) > 1 and None in names:
        parser.error(
            "of several handlers, each needs a SUBPROTOCOL=; --default takes one for the rest"
        )
    if len(set(names)) < len(names):
        parser.error("a subprotocol has one handler")
    if options.key is not None and options.cert is None:
        parser.error("--key goes with --cert")


def _version() -> str:
    try:
        return importlib.metadata.version("anyio-websocket")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes: 1 or more")
    return int(text)


def _name(text: str) -> tuple[str, str]:
    module, colon, name = text.partition(":")
    if not (colon and all(map(str.isidentifier, [*module.split("."), *name.split(".")]))):
        raise argparse.ArgumentTypeError(f"{text!r} is no MODULE:NAME, as in chat.server:handler")
    return module, name


def _target(text: str) -> tuple[str | None, tuple[str, str]]:
    subprotocol, equals, name = text.rpartition("=")
    return (subprotocol if equals else None), _name(name)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is no header: write 'NAME: VALUE'")
    return name, value.strip()
