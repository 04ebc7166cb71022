"""Models of other bundles as inputs here: they are fetched, checked, and travel in the new bundle as layers of its own.

A transferred model stays as it was learned. It may have seen rows up to the last one of its training, so only later
rows get an output of it: no row's input comes from a model that saw that row or a later one. What it listens to must
be known here under the same names and with the same fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from riskflow.bundle import Bundle, verify_signature
from riskflow.columns import F8, I8
from riskflow.declare import Transfer
from riskflow.errors import DeclarationError, RiskflowError
from riskflow.keys import PublicKeys
from riskflow.moves import is_alias
from riskflow.plan import Plan
from riskflow.registry import Registry
from riskflow.scoring import Layer

Registries = Callable[[str], Registry]  # by the name of a use case


@dataclass(frozen=True)
class Transferred:
    """Another bundle's models under names of their own; the last one is the node `name`."""

    name: str
    usecase: str
    version: int
    last_ms: int  # event time of the newest row that it learned from
    layers: tuple[dict[str, Any], ...]  # {name, inputs}, lowest first
    files: Mapping[str, bytes]  # ONNX by the layer's name
    dictionaries: Mapping[str, list[str]]

    @classmethod
    def of(cls, plan: Plan, name: str, bundle: Bundle) -> Transferred:
        """A bundle's models for this plan; DeclarationError names what the plan lacks or has otherwise."""
        _check_bundle(plan, name, bundle)
        names = {m["name"]: f"{name}_{m['name']}" for m in bundle.models[:-1]} | {bundle.models[-1]["name"]: name}
        taken = [own for own in names.values() if own != name and own in plan.nodes]
        if taken:
            raise DeclarationError(f"transfer {name!r}", f"brings a layer {taken[0]!r}, which is there", "Rename one")
        layers = tuple(
            {"name": names[m["name"]], "inputs": [names.get(i, i) for i in m["inputs"]]} for m in bundle.models
        )
        files = {names[m["name"]]: bundle.files[m["file"]] for m in bundle.models}
        last_ms = int(bundle.data.get("last_ms", 0))
        return cls(name, bundle.usecase, bundle.version, last_ms, layers, files, bundle.dictionaries)

    def outputs(self, values: Mapping[str, Any], at_ms: I8) -> F8:
        """The last model's output for each row; NaN for rows that it, or a model below it, may have learned from."""
        known: dict[str, F8] = {}
        for layer in self.layers:
            model = Layer(layer["name"], layer["inputs"], self.files[layer["name"]])
            known[layer["name"]] = model.run({**values, **known}, len(at_ms))
        return np.where(at_ms > self.last_ms, known[self.name], np.nan)

    def about(self) -> dict[str, Any]:
        return {"usecase": self.usecase, "version": self.version, "last_ms": self.last_ms}


def fetch(plan: Plan, registries: Registries, public_keys: PublicKeys) -> tuple[Transferred, ...]:
    """What the plan's models take over, from the registries of the use cases that it names."""
    return tuple(_fetch(plan, name, t, registries, public_keys) for name, t in used_transfers(plan).items())


def used_transfers(plan: Plan) -> dict[str, Transfer]:
    """The declared transfers that some model listens to."""
    used = {i for m in plan.models for i in plan.model_inputs(m)}
    return {name: t for name, t in plan.usecase.transfers.items() if name in used}


def bundle_of(registry: Registry, bundle: int | str, public_keys: PublicKeys) -> Bundle | None:
    """The bundle of a version or an alias, its signature checked; None for an alias that points nowhere yet."""
    if isinstance(bundle, str):
        if not is_alias(bundle):
            raise DeclarationError(f"bundle {bundle!r}", "is no alias", "A version, or an alias such as champion")
        move = registry.aliases().get(bundle)
        if move is None:
            return None
        bundle = move.version
    return verify_signature(registry.raw(bundle), public_keys)


def check_rows(transferred: Transferred, at_ms: I8, validation_from_ms: int) -> None:
    """RiskflowError unless the validation span, and something before it, is later than what the models learned from."""
    usable = at_ms > transferred.last_ms
    if transferred.last_ms < validation_from_ms and usable[at_ms < validation_from_ms].any():
        return
    raise RiskflowError(
        f"transfer {transferred.name!r}: version {transferred.version} of {transferred.usecase} learned from rows up "
        f"to {_moment(transferred.last_ms)}; only later ones can be learned from with it, {int(usable.sum())} of "
        f"{len(at_ms)}. Name an older version: Transfer({transferred.usecase!r}, bundle=...)"
    )


def merged_dictionaries(transferred: Sequence[Transferred]) -> dict[str, list[str]]:
    """Codes of texts as the transferred models know them; all models of the new bundle use these."""
    found: dict[str, list[str]] = {}
    for one in transferred:
        for name, words in one.dictionaries.items():
            if found.setdefault(name, list(words)) != list(words):
                raise DeclarationError(
                    f"transfer {one.name!r}", f"has other codes for {name!r} than another transfer", "Keep one of them"
                )
    return found


def _fetch(plan: Plan, name: str, transfer: Transfer, registries: Registries, public_keys: PublicKeys) -> Transferred:
    bundle = bundle_of(registries(transfer.usecase), transfer.bundle, public_keys)
    if bundle is None:
        raise RiskflowError(
            f"transfer {name!r}: {transfer.usecase} has no {transfer.bundle} yet. See: riskflow models list"
        )
    return Transferred.of(plan, name, bundle)


def _check_bundle(plan: Plan, name: str, bundle: Bundle) -> None:
    who = f"transfer {name!r}, version {bundle.version} of {bundle.usecase}"
    if not bundle.models:
        raise DeclarationError(who, "has no model, only rules", "Name a version with models")
    for needed, print_ in bundle.needed.items():
        here = plan.nodes.get(needed)
        if here is None:
            raise DeclarationError(who, f"needs {needed!r}, which is not here", "Declare it as it is declared there")
        if here.fingerprint != print_:
            raise DeclarationError(who, f"needs {needed!r}, which is another here", "Declare it as it is there")


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
