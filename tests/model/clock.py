"""An event loop whose clock jumps: when nothing is left to do, the next timer is due. Waiting costs no time."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Jumping(selectors.SelectSelector):
    """Waits by moving its loop's clock; there are no files to wait for."""

    loop: JumpingLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing is left to do, and nothing will come"
        self.loop.now += max(0.0, timeout)
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """`await asyncio.sleep(1)` returns when everything else waits for more than that."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


async def settle() -> None:
    """Until nobody can go on."""
    await asyncio.sleep(1)
