"""A TCP proxy that can be told to stall, slow down, refuse and reset connections, or lead somewhere else.

Runs as a process of its own (`python -m chaos.proxy`); `Proxy` starts and steers it: one JSON line on its standard
input, one line back. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

from ops import ports
from riskflow.settings import PROJECT

CHUNK = 256 * 1024
NO_LINGER = struct.pack("ii", 1, 0)  # a close that the other side sees as a reset


class Proxy:
    """The proxy as the harness sees it. links: name -> the port at which it listens, and the one it leads to."""

    def __init__(self, links: dict[str, tuple[int, int]]) -> None:
        self.ports = {name: port for name, (port, _) in links.items()}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.proxy", json.dumps(links)],
            cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._answer()

    def tell(self, name: str, **change: Any) -> None:
        """stalled=True|False, delay_s=..., open=True|False, target=PORT, reset=True."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"link": name, **change}) + "\n")
            self._process.stdin.flush()
            self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError("the proxy ended")


class Link:
    """One listening port and where it leads."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self.open, self.delay_s = True, 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        await asyncio.start_server(self._accept, ports.HOST, self.port)

    def change(self, said: dict[str, Any]) -> None:
        if "stalled" in said:
            self.flowing.clear() if said["stalled"] else self.flowing.set()
        self.delay_s = said.get("delay_s", self.delay_s)
        self.open = said.get("open", self.open)
        self.target = said.get("target", self.target)
        if said.get("reset"):
            self.reset()

    def reset(self) -> None:
        for writer in list(self._writers):
            found = writer.get_extra_info("socket")
            if found is not None:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.open:
                raise OSError
            there, back = await asyncio.open_connection(ports.HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        pumps = [asyncio.create_task(self._pump(reader, back)), asyncio.create_task(self._pump(there, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, back):
            end.transport.abort()
            self._writers.discard(end)
        await asyncio.wait(pumps)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()
        except (OSError, RuntimeError):  # the last one is uvloop's, for a side that has just gone
            return


async def serve(wanted: dict[str, list[int]]) -> None:
    """Until standard input ends."""
    links = {name: Link(port, target) for name, (port, target) in wanted.items()}
    for link in links.values():
        await link.listen()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("done", flush=True)
    while line := await reader.readline():
        said = json.loads(line)
        links[said["link"]].change(said)
        print("done", flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(json.loads(sys.argv[1])))
