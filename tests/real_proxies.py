"""Real proxies on loopback, each started as its manual says and ended with the test.

From Debian's packages tinyproxy, microsocks, nginx-light and haproxy. Where one is not installed,
its tests are skipped; with ``ANYWS_REQUIRE_PROXIES`` in the environment they fail.

====================  ==========================================================================
tinyproxy             HTTP's CONNECT: ``tinyproxy -d -c FILE``
microsocks            SOCKS5: ``microsocks -i 127.0.0.1 -p PORT [-u USER -P PASSWORD]``
nginx                 in front of servers: ``nginx -p FOLDER -c FILE -g "daemon off;"``
haproxy               the same, ``haproxy -db -f FILE``; and TLS in front of tinyproxy or microsocks
====================  ==========================================================================
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from connections import authority
from programs import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REQUIRED = os.environ.get("ANYWS_REQUIRE_PROXIES", "0") not in ("", "0")
# Seconds that one may take until it listens, or has ended.
GUARD = 15
# Debian has servers where only root's PATH looks.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def program(name: str) -> str:
    """Return the path of a program, or skip the test, or fail it."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        (pytest.fail if REQUIRED else pytest.skip)(f"{name} is not installed")
    return found


@contextmanager
def listening(port: int, *arguments: str, folder: Path) -> Iterator[int]:
    """Run a program that listens at this port, and give that as soon as it does."""
    log = folder / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            deadline = time.monotonic() + GUARD
            while not _is_open(port):
                ended = process.poll() is not None
                assert not ended, f"{arguments[0]} has ended: {log.read_text()}"
                assert time.monotonic() < deadline, f"{arguments[0]} does not listen"
                time.sleep(0.02)
            yield port
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, more than once: some look for that before they wait, and not after."""
    for _ in range(GUARD):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
            return
    process.kill()
    process.wait()
    raise AssertionError(f"{process.args} does not end")


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), GUARD).close()
    except ConnectionRefusedError:
        return False
    return True


def certificate(folder: Path) -> str:
    """Write a certificate for this machine, with its key, and return the name of the file."""
    path = folder / "certificate.pem"
    authority().issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
        path
    )
    return str(path)


@contextmanager
def tinyproxy(folder: Path, *lines: str, idle: int = 60) -> Iterator[int]:
    command, port = program("tinyproxy"), free_port()
    config = folder / "tinyproxy.conf"
    own = [f"Port {port}", "Listen 127.0.0.1", f"Timeout {idle}", "MaxClients 20"]
    config.write_text("\n".join([*own, *lines, ""]))
    with listening(port, command, "-d", "-c", str(config), folder=folder):
        yield port


@contextmanager
def microsocks(folder: Path, *options: str) -> Iterator[int]:
    command, port = program("microsocks"), free_port()
    with listening(port, command, "-i", "127.0.0.1", "-p", str(port), *options, folder=folder):
        yield port


@contextmanager
def haproxy(folder: Path, *lines: str, port: int) -> Iterator[int]:
    """Run HAProxy; `lines` are its frontends and backends."""
    command = program("haproxy")
    config = folder / "haproxy.cfg"
    defaults = ["defaults", "timeout connect 5s", "timeout client 5s", "timeout server 5s"]
    config.write_text("\n".join([*defaults, *lines, ""]))
    with listening(port, command, "-db", "-f", str(config), folder=folder):
        yield port


@contextmanager
def tls_in_front(folder: Path, behind: int) -> Iterator[int]:
    """Run HAProxy as what ends TLS for a proxy that has none."""
    port = free_port()
    lines = [
        "frontend tls",
        "mode tcp",
        f"bind 127.0.0.1:{port} ssl crt {certificate(folder)}",
        "default_backend proxy",
        "backend proxy",
        "mode tcp",
        f"server one 127.0.0.1:{behind}",
    ]
    with haproxy(folder, *lines, port=port):
        yield port


@contextmanager
def haproxy_before(
    folder: Path, server: int, *, tls: bool, to_tls: bool, idle: int = 60
) -> Iterator[int]:
    """Run HAProxy in front of a server, as a proxy of HTTP that knows WebSocket."""
    port = free_port()
    crt = f" ssl crt {certificate(folder)}" if tls else ""
    to = " ssl verify none" if to_tls else ""
    lines = [
        f"timeout tunnel {idle}s",
        "frontend web",
        "mode http",
        f"bind 127.0.0.1:{port}{crt}",
        "default_backend app",
        "backend app",
        "mode http",
        f"server one 127.0.0.1:{server}{to}",
    ]
    with haproxy(folder, *lines, port=port):
        yield port


@contextmanager
def nginx_before(
    folder: Path, server: int, *, tls: bool, to_tls: bool, idle: int = 60
) -> Iterator[int]:
    """Run nginx in front of a server, with what its manual wants for WebSocket."""
    command, port = program("nginx"), free_port()
    pem = certificate(folder) if tls else ""
    own = f"listen 127.0.0.1:{port} ssl; ssl_certificate {pem}; ssl_certificate_key {pem};"
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        {user}
        pid {folder}/nginx.pid;
        error_log {folder}/error.log;
        worker_processes 1;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
            server {{
                {own if tls else f"listen 127.0.0.1:{port};"}
                location / {{
                    proxy_pass {"https" if to_tls else "http"}://127.0.0.1:{server};
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection $connection_upgrade;
                    proxy_set_header Host $http_host;
                    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                    proxy_read_timeout {idle}s;
                    proxy_send_timeout {idle}s;
                }}
            }}
        }}
        """
    )
    options = ["-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with listening(port, command, *options, "-g", "daemon off;", folder=folder):
        yield port
