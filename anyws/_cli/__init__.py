"""The command `anyws`: its arguments, and a file for each of its commands.

Messages go to standard output and everything else to standard error, so that output can be piped.
What a person did wrong, or the network, is one line that begins with ``anyws:``; a traceback is a
bug, or that of a program which `anyws serve` was to import.

Exit codes: 0 for what went as asked, being interrupted in the middle included; 1 for what did not;
2 for arguments that make no sense; 130 for an interrupt before anything had begun.
"""

from .command import main

__all__ = ["main"]
