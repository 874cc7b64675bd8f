"""What `anyws serve` is to serve: names on the command line become objects of a program."""

from __future__ import annotations

import dataclasses
import importlib
import os
import ssl
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._config import as_config
from .telling import reason_of

if TYPE_CHECKING:
    import argparse

    from .._config import Config

__all__ = ["CannotServe", "Program", "load"]


class CannotServe(Exception):
    """What a person has to put right before there can be a server."""


@dataclass(frozen=True)
class Program:
    """What the options name, of the kinds that `open_server` checks."""

    handlers: Any
    default: Any
    on_request: Any
    origins: Any
    config: Config
    ssl_context: ssl.SSLContext | None


def load(options: argparse.Namespace) -> Program:
    """Import what the options name, and read the certificate.

    Raises CannotServe, and what the program itself ends with as it is imported, as `SystemExit`.
    """
    # As Python does for a script: programs are found from where they are run.
    here = os.getcwd()
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    handlers: Any = {subprotocol: _find(*name) for subprotocol, name in options.targets}
    if list(handlers) == [None]:
        handlers = handlers[None]
    origins = options.origin
    return Program(
        handlers,
        _find_if_named(options.default),
        _find_if_named(options.on_request),
        "*" if origins == ["*"] else origins,
        _config(options),
        _ssl_context(options),
    )


def _find_if_named(name: tuple[str, str] | None) -> Any:
    return None if name is None else _find(*name)


def _find(module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(module, error) from error
        raise CannotServe(f"there is no module {error.name!r}, for {module}:{name}") from None
    except Exception as error:
        raise _failed(module, error) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise CannotServe(f"there is no {name!r} in the module {module!r}") from None
    return found


def _failed(module: str, error: Exception) -> CannotServe:
    # It is the program's, and whoever wrote that needs all of it.
    traceback.print_exception(error)
    return CannotServe(f"the module {module!r} cannot be imported: {type(error).__name__}: {error}")


def _config(options: argparse.Namespace) -> Config:
    try:
        config = as_config(_find_if_named(options.config))
    except TypeError as error:
        raise CannotServe(str(error)) from None
    if options.drain_timeout is None:
        return config
    return dataclasses.replace(config, drain_timeout=options.drain_timeout)


def _unread(error: OSError) -> str:
    # OpenSSL has no words of its own for what it could not make sense of.
    if isinstance(error, ssl.SSLError) and error.reason in {None, "PEM_LIB"}:
        return "what is in there is no PEM, or not all of it, or the key has a password"
    return reason_of(error)


def _ssl_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A password: nobody is there to be asked for one.
        context.load_cert_chain(options.cert, options.key, password="")
    except OSError as error:
        files = options.cert if options.key is None else f"{options.cert} and {options.key}"
        raise CannotServe(f"no certificate with its key in {files}: {_unread(error)}") from None
    return context
