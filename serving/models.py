"""The registry as people read it over HTTP: versions, aliases, metrics."""

from __future__ import annotations

from typing import Any

from riskflow.bundle import Bundle
from riskflow.card import unpacked
from riskflow.errors import BundleRefused, NotReady
from riskflow.registry import Registry
from serving.schemas import Alias, Models, Version

Contents = tuple[list[str], dict[str, Any] | None]
GONE: Contents = ([], None)


class ModelsView:
    """Reads a use case's registry. What stands inside a bundle never changes, so it is read once."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._contents: dict[tuple[int, str], Contents] = {}

    def all(self) -> Models:
        moves = self.registry.aliases()
        aliases = {
            a: Alias(version=m.version, number=m.number, moved_at_ms=m.at_ms, who=m.who, why=m.why, share=m.share)
            for a, m in moves.items()
        }
        pointing: dict[int, list[str]] = {}
        for alias, move in moves.items():
            pointing.setdefault(move.version, []).append(alias)
        found = self.registry.versions()
        versions = [self._version(v, found[v], pointing.get(v, [])) for v in sorted(found, reverse=True)]
        return Models(usecase=self.registry.names.usecase, aliases=aliases, versions=versions)

    def champion(self) -> int | None:
        move = self.registry.champion()
        return None if move is None else move.version

    def card(self, version: str) -> str | None:
        """The model card of a version, or of where an alias points; None where there is none."""
        move = None if version.isdecimal() else self.registry.aliases().get(version)
        if move is None and not version.isdecimal():
            return None
        raw = self.registry.client.get(self.registry.names.card(move.version if move else int(version)))
        return None if raw is None else unpacked(raw)

    def _version(self, version: int, about: dict[str, Any], aliases: list[str]) -> Version:
        models, metrics = self._inside(version, about["hash"])
        return Version(
            version=version, aliases=aliases, created_at=about["created_at"], published_at_ms=about["at_ms"],
            published_by=about["who"], hash=about["hash"], models=models, metrics=metrics,
        )  # fmt: skip

    def _inside(self, version: int, content_hash: str) -> Contents:
        """Names of models, and metrics; nothing when the bytes are gone or are not those that were published."""
        if (version, content_hash) not in self._contents:
            try:
                bundle = Bundle.from_bytes(self.registry.raw(version))
            except (NotReady, BundleRefused):
                return GONE
            if bundle.content_hash != content_hash:
                return GONE
            self._contents[version, content_hash] = ([m["name"] for m in bundle.models], bundle.metrics)
        return self._contents[version, content_hash]
