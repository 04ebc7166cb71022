"""Which bundle is live: watches the registry, verifies what comes, keeps the old one when the new one is refused."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import structlog

from riskflow.bundle import check_golden
from riskflow.errors import BundleRefused, RiskflowError
from riskflow.plan import Plan
from riskflow.registry import AsyncRegistry, Move
from riskflow.scoring import Scorer
from stream import metrics

log = structlog.get_logger(__name__)
RESTS = 3  # times as long as it has just worked
KEPT = 4  # bundles that stay loaded, for heads that still pin an older one


@dataclass(frozen=True)
class Live:
    """A verified bundle, ready to score. `number` is that of the move that made it champion."""

    version: int
    hash: str
    number: int
    scorer: Scorer

    @property
    def pin(self) -> dict[str, Any]:
        """How a head names it."""
        return {"version": self.version, "hash": self.hash, "number": self.number}


class Swap:
    """Loads the champion when its alias moves. Loading and verifying run beside the stream, in a thread."""

    def __init__(self, plan: Plan, registry: AsyncRegistry, poll_s: float) -> None:
        self.plan, self.registry, self._poll_s = plan, registry, poll_s
        self._loaded: dict[str, Live] = {}
        self._newest: Live | None = None
        self._available = asyncio.Event()
        self._why = ""

    @property
    def found(self) -> bool:
        """Whether there has been a champion that can be used since this worker started."""
        return self._available.is_set()

    async def newest(self) -> Live:
        """The champion; waits until there is one."""
        await self._available.wait()
        assert self._newest is not None
        return self._newest

    async def pinned(self, pin: dict[str, Any]) -> Live:
        """The bundle that a head names, whatever is champion by now."""
        live = self._loaded.get(pin["hash"])
        if live is None:
            live = await self._load(pin["version"], pin["number"])
            if live.hash != pin["hash"]:
                raise BundleRefused(f"bundle {pin['version']} in Redis is not the one that the head pins")
        return live

    async def watch(self) -> None:
        """Looks at the alias at every notice, and every few seconds anyway."""
        notices = self.registry.notices()
        while True:
            try:
                await self._look()
            except RiskflowError as error:
                self._refuse(str(error))
            except Exception as error:
                self._refuse(f"cannot read the registry: {error!r}")
            await notices.wait(self._poll_s)

    async def _look(self) -> None:
        move = await self.registry.champion()
        if move is None:
            self._refuse("no bundle has been published")
        elif self._newest is None or move.number > self._newest.number:
            self._take(move, await self._load(move.version, move.number))

    def _take(self, move: Move, live: Live) -> None:
        self._newest = live
        self._why = ""
        self._available.set()
        metrics.READY.labels(self.plan.name).set(1)
        metrics.MODEL_INFO.clear()
        metrics.MODEL_INFO.labels(self.plan.name, str(live.version)).set(1)
        metrics.MODEL_LOADED.labels(self.plan.name).set(time.time())
        log.info("bundle is live", version=live.version, move=move.number, who=move.who, why=move.why)

    async def _load(self, version: int, number: int) -> Live:
        raw = await self.registry.bundle(version)
        scorer = await asyncio.to_thread(self._scorer, raw)
        live = Live(scorer.bundle.version, scorer.bundle.content_hash, number, scorer)
        self._loaded[live.hash] = live
        for old in list(self._loaded)[:-KEPT]:
            del self._loaded[old]
        return live

    def _scorer(self, raw: bytes) -> Scorer:
        """Of a verified bundle; beside events that are being scored it works a quarter of the time."""
        scorer = Scorer(self.plan, self.registry.verify(raw, self.plan))
        check_golden(scorer, None if self._newest is None else lambda seconds: time.sleep(RESTS * seconds))
        return scorer

    def _refuse(self, why: str) -> None:
        """Says once why there is nothing new."""
        if why == self._why:
            return
        self._why = why
        if self._newest is None:
            log.warning("not ready: events wait on Kafka", why=why, fix=f"riskflow retrain {self.plan.name}")
        else:
            metrics.SWAP_REFUSED.labels(self.plan.name).inc()
            log.error("not taken, the live bundle stays", live=self._newest.version, why=why)
