"""Bundles of the registry for those who only look: a client that can read and nothing else stands before Redis."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from riskflow.bundle import Bundle, check_features, verify, verify_signature
from riskflow.connect import ERRORS, connect, without_password
from riskflow.errors import BundleRefused, NotReady, RiskflowError
from riskflow.keys import PublicKeys, load_public_keys
from riskflow.names import Names
from riskflow.plan import Plan
from riskflow.policy import Numbers
from riskflow.registry import Registry
from riskflow.settings import Settings

READS = frozenset({"exists", "get", "hget", "hgetall", "hmget", "lrange", "mget", "ping"})


class WriteRefused(RiskflowError):
    """Something that only looks tried to change what is live."""


class ReadOnly:
    """A Redis client of which only the commands that read are left; anything else raises WriteRefused."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name not in READS:
            raise WriteRefused(f"Redis command {name!r} is refused: this job reads only. Allowed: {sorted(READS)}")
        return getattr(self._client, name)


class Shelf:
    """The bundles of a use case: of the registry, or in a file that is not published yet."""

    def __init__(self, plan: Plan, conf: Settings) -> None:
        self.plan, self.conf = plan, conf
        self._needs: dict[int, Mapping[str, str] | None] = {}

    def bundle(self, asked: str) -> Bundle:
        """By version, alias or path. BundleRefused when it was not made for this plan."""
        if Path(asked).is_file():
            return self._in_file(Path(asked))
        return verify(self._registry.raw(self._version(asked)), self._keys, plan=self.plan)

    def policy(self, version: int) -> Numbers | None:
        """The resolved policy of a published bundle; None where that is not known any more."""
        try:
            return verify_signature(self._registry.raw(version), self._keys).policy
        except (NotReady, BundleRefused):
            return None

    def needs(self, version: int) -> Mapping[str, str] | None:
        """Fingerprints of the features that a published bundle needs; None where that is not known any more."""
        if version not in self._needs:
            self._needs[version] = self._needed(version)
        return self._needs[version]

    def _needed(self, version: int) -> Mapping[str, str] | None:
        try:
            return verify_signature(self._registry.raw(version), self._keys).needed
        except (NotReady, BundleRefused):
            return None

    def _in_file(self, path: Path) -> Bundle:
        """A bundle that a person names need not be signed: nothing that is live ever loads it from here."""
        try:
            bundle = Bundle.from_bytes(path.read_bytes())
        except BundleRefused as error:
            raise BundleRefused(f"{path}: {error}. Give a version, an alias, or a run's bundle.bin") from None
        if bundle.usecase != self.plan.name:
            raise BundleRefused(f"{path} is for use case {bundle.usecase!r}, not for {self.plan.name!r}")
        check_features(bundle, self.plan)
        return bundle

    def _version(self, asked: str) -> int:
        if asked.isdigit():
            return int(asked)
        move = self._registry.aliases().get(asked)
        if move is None:
            raise NotReady(
                f"{asked!r} is neither a version, an alias that stands, nor a file. See: riskflow models list"
            )
        return move.version

    @cached_property
    def _keys(self) -> PublicKeys:
        return load_public_keys(self.conf.keys_folder)

    @cached_property
    def _registry(self) -> Registry:
        client = ReadOnly(connect(self.conf.redis_url))
        try:
            client.ping()
        except ERRORS:
            where = without_password(self.conf.redis_url)
            raise NotReady(f"Redis at {where} does not answer. Run `riskflow up`.") from None
        return Registry(client, Names(self.plan.name, prefix=self.conf.topic_prefix))
