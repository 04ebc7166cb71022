"""Which bundles are live: watches the registry, verifies what comes, keeps the old champion when a new one is refused.

A canary, challenger or shadow that cannot be used is left out of the roster, with a word and a metric: decisions never
wait for it. It is tried again when its alias moves, or when the worker starts again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import structlog

from riskflow.bundle import check_golden
from riskflow.errors import BundleRefused
from riskflow.moves import CHAMPION, MOST_BESIDE, Standing
from riskflow.plan import Plan
from riskflow.registry_reader import AsyncRegistry, first_bundle
from riskflow.scoring import Scorer
from stream import metrics
from stream.head import until_answered
from stream.roster import Pin, Roster

log = structlog.get_logger(__name__)
RESTS = 3  # times as long as it has just worked
# Bundles that stay loaded: a whole roster, and those before it for heads that still pin them, or for a way back.
KEPT = 2 + MOST_BESIDE + 6


@dataclass(frozen=True)
class Live:
    """A verified bundle, ready to score."""

    version: int
    hash: str
    scorer: Scorer


class Swap:
    """Loads what aliases point at when they move. Loading and verifying run beside the stream, in a thread."""

    def __init__(self, plan: Plan, registry: AsyncRegistry, poll_s: float) -> None:
        self.plan, self.registry, self._poll_s = plan, registry, poll_s
        self._loaded: dict[str, Live] = {}  # by content hash; what was used last stands last
        self._tried: set[str] = set()  # content hashes whose golden rows this process has seen right
        self._loading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._wanted: Counter[str] = Counter()  # content hashes that decisions wait for
        self._left_out: set[tuple[str, int]] = set()  # alias and number of moves to what cannot be used
        self._newest: Roster | None = None
        self._available = asyncio.Event()
        self._why: dict[str, str] = {}

    @property
    def found(self) -> bool:
        """Whether there has been a champion that can be used since this worker started."""
        return self._available.is_set()

    async def newest(self) -> Roster:
        """What shall score; waits until there is a champion."""
        await self._available.wait()
        assert self._newest is not None
        return self._newest

    async def pinned(self, pin: Pin) -> Live:
        """The bundle that a head names, wherever its alias stands by now; BundleRefused when it cannot be used."""
        if pin.hash in self._loaded:
            return self._keep(self._loaded[pin.hash])
        self._wanted[pin.hash] += 1
        try:
            async with self._loading[pin.hash]:
                if pin.hash not in self._loaded:
                    await self._load(pin)
        finally:
            self._wanted[pin.hash] -= 1
        return self._keep(self._loaded[pin.hash])

    async def usable(self, roster: Roster) -> Roster | None:
        """The roster without those that cannot be used; None when that is the champion."""
        try:
            await self.pinned(roster.champion)
        except BundleRefused as error:
            log.error("the pinned bundle cannot be used, a newer one takes over", why=str(error))
            return None
        missing = [pin for pin in roster.beside if pin.hash not in self._loaded and not self._is_left_out(pin)]
        for pin, error in zip(missing, await asyncio.gather(*map(self._try, missing)), strict=True):
            if error is not None:
                self.leave_out(pin, str(error) or repr(error))
        return roster.only(lambda pin: not self._is_left_out(pin))

    def leave_out(self, pin: Pin, why: str) -> None:
        """From now on nothing is scored with it under this alias, until the alias moves."""
        if self._is_left_out(pin):
            return
        self._left_out.add((pin.alias, pin.number))
        metrics.LEFT_OUT.labels(self.plan.name, pin.alias).inc()
        log.error("left out, decisions go on without it", alias=pin.alias, version=pin.version, why=why)
        if self._newest is not None:
            self._offer(self._newest.only(lambda pin: not self._is_left_out(pin)))

    async def watch(self) -> None:
        """Looks at the aliases at every notice, and every few seconds anyway."""
        notices = self.registry.notices()
        while True:
            try:
                await self._look()
            except Exception as error:
                self._refuse(CHAMPION, f"cannot read the registry: {error!r}")
            await notices.wait(self._poll_s)

    # what is new

    async def _look(self) -> None:
        found = await self.registry.roster()
        for alias, why in found.refused.items():
            self._refuse(alias, why)
        wanted = Roster.of(found)
        if wanted is None:
            if CHAMPION not in found.refused:
                self._refuse(CHAMPION, "no bundle has been published")
            return
        champion = await self._usable_champion(wanted.champion)
        if champion is not None:
            await self._take(replace(wanted, champion=champion), found)

    async def _usable_champion(self, pin: Pin) -> Pin | None:
        """This one, or the one before it where it cannot be used; None where there was none."""
        now = None if self._newest is None else self._newest.champion
        if pin == now:
            return pin
        try:
            await self._verify(pin)
        except BundleRefused as error:
            self._refuse(CHAMPION, str(error))
            return now
        self._why.pop(CHAMPION, None)
        return pin

    async def _take(self, wanted: Roster, found: Standing) -> None:
        """A new champion at once, with its canary and those beside it that are there already; then all of them."""
        wanted = wanted.only(lambda pin: not self._is_left_out(pin))
        if self._newest is None or self._newest.champion != wanted.champion:
            if wanted.canary is not None and wanted.canary.hash not in self._loaded:
                await self._take_beside(wanted.canary)
            self._offer(replace(wanted.only(lambda pin: pin.hash in self._loaded), whole=False))
            self._say_live(found)
        known = {} if self._newest is None else {pin.alias: pin for pin in self._newest.beside}
        for pin in wanted.beside:
            if known.get(pin.alias) != pin or pin.hash not in self._loaded:
                await self._take_beside(pin)
        whole = wanted.only(lambda pin: not self._is_left_out(pin))
        if whole != self._newest:
            self._offer(whole)
            log.info("roster", number=whole.number, champion=whole.champion.version,
                     beside={pin.alias: pin.version for pin in whole.beside})  # fmt: skip

    async def _take_beside(self, pin: Pin) -> None:
        try:
            await self._verify(pin)
        except Exception as error:  # whatever is wrong with it, decisions go on
            self.leave_out(pin, str(error) or repr(error))

    def _offer(self, roster: Roster) -> None:
        self._newest = roster
        self._available.set()
        metrics.READY.labels(self.plan.name).set(1)
        metrics.MODEL_INFO.clear()
        for pin in (roster.champion, *roster.beside):
            metrics.MODEL_INFO.labels(self.plan.name, str(pin.version), pin.alias).set(1)

    def _say_live(self, found: Standing) -> None:
        move = found.moves[CHAMPION]
        metrics.MODEL_LOADED.labels(self.plan.name).set(time.time())
        log.info("bundle is live", version=move.version, move=move.number, who=move.who, why=move.why)

    def _refuse(self, alias: str, why: str) -> None:
        """Says once why there is nothing new."""
        if why == self._why.get(alias):
            return
        self._why[alias] = why
        if self._newest is None:
            log.warning("not ready: events wait on Kafka", why=why, fix=first_bundle(self.plan.name))
        else:
            metrics.SWAP_REFUSED.labels(self.plan.name).inc()
            log.error("not taken, what is live stays", alias=alias, live=self._newest.champion.version, why=why)

    # loading

    async def _try(self, pin: Pin) -> Exception | None:
        try:
            await self.pinned(pin)
        except Exception as error:  # whatever is wrong with it, decisions go on
            return error
        return None

    def _is_left_out(self, pin: Pin) -> bool:
        return (pin.alias, pin.number) in self._left_out

    async def _verify(self, pin: Pin) -> None:
        """Loads what an alias points at now. What is loaded already is only checked again: its bytes and signature."""
        async with self._loading[pin.hash]:
            await self._load(pin)

    async def _load(self, pin: Pin) -> None:
        raw = await until_answered(lambda: self.registry.bundle(pin.version))
        live = await asyncio.to_thread(self._verified, raw, pin)
        self._keep(live)
        for old in list(self._loaded)[:-KEPT]:
            del self._loaded[old]
            self._loading.pop(old, None)

    def _keep(self, live: Live) -> Live:
        self._loaded.pop(live.hash, None)
        self._loaded[live.hash] = live
        return live

    def _verified(self, raw: bytes, pin: Pin) -> Live:
        bundle = self.registry.verify(raw, self.plan)
        if bundle.content_hash != pin.hash:
            raise BundleRefused(f"bundle {pin.version} in Redis is not the one that was pinned under {pin.alias!r}")
        if pin.hash in self._loaded:
            return self._loaded[pin.hash]
        scorer = Scorer(self.plan, bundle)
        if pin.hash not in self._tried:
            check_golden(scorer, lambda seconds: self._rest(pin, seconds))
            self._tried.add(pin.hash)
        return Live(bundle.version, pin.hash, scorer)

    def _rest(self, pin: Pin, seconds: float) -> None:
        """Beside events that are being scored it works a quarter of the time, unless they wait for it."""
        if self._newest is not None and not self._wanted[pin.hash]:
            time.sleep(RESTS * seconds)
