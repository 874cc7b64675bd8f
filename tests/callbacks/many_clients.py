"""A thousand clients in one process: what they take, and that their messages stay in order.

``python tests/callbacks/many_clients.py [--clients 1000] [--messages 20] [--background]``

The server is a process of its own. Prints one line of figures; memory is what this process has
grown by, from before the first client until all are open and have had their messages.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from anyws import Status
from anyws.callbacks import Client, Closed, Message, Opened


def memory() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def our_threads() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t is not threading.main_thread())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=20)
    parser.add_argument("--background", action="store_true", help="not polled")
    options = parser.parse_args()
    command = [sys.executable, "-m", "anyws", "echo", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline().decode()
            url = line.partition("echo server at ")[2].partition(",")[0]
            assert url, line
            measure(url, options)
        finally:
            server.terminate()
            server.communicate()


def measure(url: str, options: Any) -> None:
    heard: list[list[Any]] = [[] for _ in range(options.clients)]
    clients = [Client(url, events.append, polled=not options.background) for events in heard]
    gc.collect()
    memory_before, began = memory(), time.perf_counter()
    # In portions: a server accepts only so many at once.
    for first in range(0, options.clients, 100):
        for client in clients[first : first + 100]:
            client.open()
        portion = heard[first : first + 100]
        wait_until(clients, lambda portion=portion: all(portion), options)
    open_after, threads = time.perf_counter() - began, our_threads()
    began = time.perf_counter()
    for number in range(options.messages):
        for client in clients:
            client.send(str(number))
    most_threads = len(our_threads())
    whole = 1 + options.messages
    wait_until(clients, lambda: all(len(events) == whole for events in heard), options)
    echoed_after = time.perf_counter() - began
    gc.collect()
    grown = memory() - memory_before
    most_threads = max(most_threads, len(our_threads()))
    for client in clients:
        client.close()
    wait_until(clients, lambda: all(len(events) == whole + 1 for events in heard), options)
    assert all(client.status is Status.CLOSED for client in clients)
    expected = [str(number) for number in range(options.messages)]
    for events in heard:
        assert [type(event) for event in events] == [Opened, *[Message] * options.messages, Closed]
        assert [event.data for event in events[1:-1]] == expected
    print(  # noqa: T201
        f"{options.clients} clients {'in the background' if options.background else 'polled'}: "
        f"open after {open_after:.2f} s, {options.clients * options.messages} echoes in "
        f"{echoed_after:.2f} s, {grown / options.clients / 1024:.1f} KiB each, "
        f"threads when open: {', '.join(threads)}; {most_threads} at most"
    )


def wait_until(clients: list[Client], done: Any, options: Any) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, "it takes too long"
        if not options.background:
            for client in clients:
                client.poll()
        # A frame of the program: one that never pauses keeps the interpreter from our thread.
        time.sleep(0.01)


if __name__ == "__main__":
    main()
