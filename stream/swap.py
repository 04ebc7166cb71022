"""Which bundle is live: watches the registry, verifies what comes, keeps the old one when the new one is refused."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import structlog

from riskflow.errors import BundleRefused
from riskflow.plan import Plan
from riskflow.registry import AsyncRegistry
from riskflow.scoring import Scorer
from stream import metrics

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Live:
    """A verified bundle, ready to score; `pin` is how a head names it."""

    version: int
    pin: dict[str, Any]
    scorer: Scorer


class Swap:
    """Loads the champion when its alias moves. Loading and verifying run beside the stream, in a thread."""

    def __init__(self, plan: Plan, registry: AsyncRegistry, poll_s: float) -> None:
        self.plan, self.registry, self._poll_s = plan, registry, poll_s
        self._loaded: dict[int, Live] = {}
        self._newest: Live | None = None
        self._available = asyncio.Event()
        self._refused: tuple[int, int] | None = None
        self._why = "no bundle has been published"

    async def newest(self) -> Live:
        """The champion; waits, saying why, until there is one."""
        if self._newest is None:
            log.warning("not ready: events wait on Kafka", why=self._why, fix=f"riskflow retrain {self.plan.name}")
            await self._available.wait()
        assert self._newest is not None
        return self._newest

    async def pinned(self, pin: dict[str, Any]) -> Live:
        """The bundle that a head names, whatever is champion by now."""
        live = self._loaded.get(pin["version"])
        if live is None or live.pin != pin:
            live = await self._load(pin["version"])
            if live.pin != pin:
                raise BundleRefused(f"bundle {pin['version']} in Redis is not the one that the head pins ({pin['hash'][:12]})")
        return live

    async def watch(self) -> None:
        """Looks at the alias at every notice, and every few seconds anyway."""
        notices = self.registry.notices()
        while True:
            try:
                await self._look()
            except BundleRefused as error:
                self._refuse(str(error))
            except Exception as error:
                self._refuse(f"cannot read the registry: {error!r}")
            await notices.wait(self._poll_s)

    async def _look(self) -> None:
        move = await self.registry.champion()
        if move is None or (move.version, move.number) == self._refused:
            return
        if self._newest is not None and self._newest.version == move.version:
            return
        try:
            live = await self._load(move.version)
        except BundleRefused:
            self._refused = (move.version, move.number)
            raise
        self._newest = live
        self._keep(live)
        self._available.set()
        metrics.READY.labels(self.plan.name).set(1)
        metrics.MODEL_INFO.clear()
        metrics.MODEL_INFO.labels(self.plan.name, str(live.version)).set(1)
        metrics.MODEL_LOADED.labels(self.plan.name).set(time.time())
        log.info("bundle is live", version=live.version, who=move.who, why=move.why)

    async def _load(self, version: int) -> Live:
        raw = await self.registry.bundle(version)
        live = await asyncio.to_thread(self._verified, raw)
        self._keep(live)
        return live

    def _verified(self, raw: bytes) -> Live:
        bundle = self.registry.verify(raw, self.plan)
        scorer = Scorer(self.plan, bundle)
        bundle.check_golden(scorer)
        return Live(bundle.version, {"version": bundle.version, "hash": bundle.content_hash}, scorer)

    def _keep(self, live: Live) -> None:
        """The last few stay loaded, for heads that still pin them."""
        self._loaded[live.version] = live
        for version in sorted(self._loaded)[:-4]:
            del self._loaded[version]

    def _refuse(self, why: str) -> None:
        if why != self._why:
            self._why = why
            metrics.SWAP_REFUSED.labels(self.plan.name).inc()
            log.error("bundle not taken, the old one stays", why=why)
