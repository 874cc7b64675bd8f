"""The page on production: what it shows for other programs is taken by these programs."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from programs import ROOT, free_port
from real_proxies import program
from served import PATIENCE, serving

import anyws
import anyws.sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="these are no programs of Windows"),
]

PAGE = (ROOT / "docs" / "production.md").read_text()


def shown(language: str, containing: str = "") -> str:
    """The one block of the page in this language, and with these words."""
    (found,) = [
        code
        for code in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
        if containing in code
    ]
    return found


@contextmanager
def proxy(port: int, *arguments: object) -> Iterator[None]:
    """Run a proxy in the foreground until the block ends; it listens when that begins."""
    with subprocess.Popen([*map(str, arguments)], stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            assert process.poll() is None, process.communicate()
            yield
        finally:
            process.kill()


def talk(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/"
    page = f"http://127.0.0.1:{port}"
    with anyws.sync.open_websocket(url, origin=page) as ws:
        ws.send("hello")
        assert ws.receive(PATIENCE) == "hello"
        assert ws.close().clean
    with pytest.raises(anyws.HandshakeRejected, match="403"):
        anyws.sync.open_websocket(url, origin="http://elsewhere.test").__enter__()


def port_of(url: str) -> str:
    return url.rpartition(":")[2].rstrip("/")


def test_nginx_passes_connections_on_as_shown(tmp_path: Path) -> None:
    nginx = program("nginx")
    with serving(tmp_path, "app:echo", "--port", 0) as running:
        behind, port = port_of(running.url()), free_port()
        site = shown("nginx").replace("8080", behind).replace("listen 80;", f"listen {port};")
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log off; client_body_temp_path {tmp_path}/a;\n"
            f"proxy_temp_path {tmp_path}/b; fastcgi_temp_path {tmp_path}/c;\n"
            f"uwsgi_temp_path {tmp_path}/d; scgi_temp_path {tmp_path}/e;\n{site}}}\n"
        )
        with proxy(port, nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf"):
            talk(port)


def test_haproxy_passes_connections_on_as_shown(tmp_path: Path) -> None:
    haproxy = program("haproxy")
    with serving(tmp_path, "app:echo", "--port", 0) as running:
        behind, port = port_of(running.url()), free_port()
        site = (
            shown("text", "frontend").replace("8080", behind).replace("0.0.0.0:80\n", f":{port}\n")
        )
        (tmp_path / "haproxy.cfg").write_text(site)
        with proxy(port, haproxy, "-db", "-q", "-f", tmp_path / "haproxy.cfg"):
            talk(port)


def test_systemd_takes_the_units_that_are_shown(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    units = []
    for name, words in (("chat.socket", "[Socket]"), ("chat.service", "[Service]")):
        text = shown("ini", words).replace("/srv/chat/venv/bin/anyws", sys.executable)
        (tmp_path / name).write_text(text.replace("User=chat", "User=root"))
        units.append(tmp_path / name)
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if "chat." in line]
    assert complaints == []
