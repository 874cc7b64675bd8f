"""What a person reads of the command: lines, errors without layers, messages that steer nothing."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import unicodedata

__all__ = [
    "INTERRUPTED",
    "announce",
    "complain",
    "fill_standard_streams",
    "note",
    "printable",
    "reason_of",
    "shown",
    "stop_printing",
]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

# Of a binary message; more does not help a person.
_SHOWN_BYTES = 256


def complain(message: str) -> int:
    note(f"anyws: {message}")
    return 1


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def announce(line: str) -> None:
    """Print a line that need not be read."""
    try:
        print(line, flush=True)
    except OSError:
        stop_printing()


def fill_standard_streams() -> None:
    """Give each standard stream that was closed before this process began to nobody.

    Else the next socket would have its number, and what a process started from here prints or
    reads, or has put in its place, would be that socket.
    """
    number = 0
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
        if number <= 2:
            os.set_inheritable(number, True)
    os.close(number)


def stop_printing() -> None:
    # Nobody reads on, as after `| head`; the interpreter's last flush has to go somewhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shown(message: str | bytes) -> str:
    """Return a message as one line that a terminal takes for text and nothing else.

    Escape sequences in what a peer sends could rewrite the screen, or type on the user's behalf.
    """
    if isinstance(message, str):
        return printable(message)
    cut = f" and {len(message) - _SHOWN_BYTES} more" if len(message) > _SHOWN_BYTES else ""
    return f"binary, {len(message)} bytes: {message[:_SHOWN_BYTES].hex(' ')}{cut}"


def printable(text: str) -> str:
    """Return the text with what would steer the terminal escaped as in a string literal."""
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    # Controls, marks that reverse or hide text, ends of lines; joiners belong to scripts and emoji.
    category = unicodedata.category(character)
    return category in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in "\u200c\u200d"


def reason_of(error: OSError) -> str:
    """Return what went wrong, without numbers and without the layers that it came through."""
    cause = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason.replace("_", " ").lower() if error.reason else str(error)
    if isinstance(cause, OSError):
        return reason_of(cause)
    if isinstance(cause, ExceptionGroup):
        reasons = [reason_of(one) for one in cause.exceptions if isinstance(one, OSError)]
        return ", ".join(dict.fromkeys(reasons))
    if isinstance(error, socket.gaierror):
        return str(error.args[-1])  # the resolver's own words
    if error.errno is not None:
        return os.strerror(error.errno)
    return error.strerror or str(error)
