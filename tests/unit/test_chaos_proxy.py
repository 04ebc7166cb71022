"""The proxy of the chaos suite does to a connection what it is told to."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from chaos.proxy import Proxy
from ops import ports


class Echo(socketserver.BaseRequestHandler):
    said = b""

    def handle(self) -> None:
        with suppress(ConnectionError):
            while data := self.request.recv(1024):
                self.request.sendall(self.said + data)


@contextmanager
def echo(said: bytes = b"") -> Iterator[int]:
    handler = type("Handler", (Echo,), {"said": said})
    with socketserver.ThreadingTCPServer((ports.HOST, 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with echo() as port:
        made = Proxy({"echo": (ports.choose(), port)})
        yield made
        made.close()


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection((ports.HOST, proxy.ports["echo"]), timeout=5.0)


def answer(connection: socket.socket, said: bytes) -> bytes:
    connection.sendall(said)
    return connection.recv(1024)


def test_a_stalled_connection_stays_open_and_goes_on_later(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert answer(connection, b"one") == b"one"
        proxy.tell("echo", stalled=True)
        connection.sendall(b"two")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1024)
        proxy.tell("echo", stalled=False)
        connection.settimeout(5.0)
        assert connection.recv(1024) == b"two"


def test_a_slow_connection_takes_its_time(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        proxy.tell("echo", delay_s=0.2)
        started = time.monotonic()
        assert answer(connection, b"slow") == b"slow"
        assert time.monotonic() - started >= 0.4, "there and back"


def test_a_reset_connection_is_gone_and_a_new_one_works(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert answer(connection, b"one") == b"one"
        proxy.tell("echo", reset=True)
        with pytest.raises(ConnectionResetError):
            connection.recv(1024)
    with connected(proxy) as connection:
        assert answer(connection, b"two") == b"two"


def test_a_closed_way_takes_nobody(proxy: Proxy) -> None:
    proxy.tell("echo", open=False)
    with connected(proxy) as connection, suppress(ConnectionResetError, BrokenPipeError):
        assert answer(connection, b"one") == b"", "an end or a reset, but no answer"
    proxy.tell("echo", open=True)
    with connected(proxy) as connection:
        assert answer(connection, b"two") == b"two"


def test_the_way_can_lead_somewhere_else(proxy: Proxy) -> None:
    with echo(b"another ") as port:
        proxy.tell("echo", target=port)
        with connected(proxy) as connection:
            assert answer(connection, b"one") == b"another one"
