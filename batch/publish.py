"""Publishes a bundle that passed its gates, or writes a refusal that names those that failed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from batch.compare import Comparison
from batch.files import write_text
from batch.gates import Gate
from batch.judge import Judged, Verdict
from riskflow.bundle import Bundle, verify_signature
from riskflow.errors import RiskflowError
from riskflow.keys import PublicKeys
from riskflow.registry import CHAMPION, Registry

REFUSAL = "refusal.txt"
VERDICT = "verdict.json"


class GatesFailed(RiskflowError):
    """A bundle is not published; the message names the gates that failed and their numbers."""

    final = True


@dataclass(frozen=True)
class Published:
    version: int
    content_hash: str
    alias: str
    made_of: str


def publish(
    judged: Judged,
    registry: Registry,
    private_key: Ed25519PrivateKey,
    *,
    who: str,
    why: str,
    alias: str = CHAMPION,
) -> Published:
    """Signs and stores the bundle and points the alias at it; raises GatesFailed when the verdict is against it.

    Done again, it does what a publisher that was interrupted had not done yet: one bundle gets one version.
    """
    bundle = judged.bundle
    if bundle is None or not judged.verdict.passed:
        raise GatesFailed(judged.verdict.refusal())
    version = registry.version_made_of(bundle.made_of)
    if version is None:
        version = registry.publish(bundle, private_key, who=who, why=why, alias=alias).version
    elif version not in [move.version for move in registry.history(alias)]:
        registry.move(alias, version, who=who, why=why, private_key=private_key, forward=True)
    return Published(version, registry.versions()[version]["hash"], alias, bundle.made_of)


def write_verdict(verdict: Verdict, folder: Path) -> None:
    """verdict.json, and refusal.txt when gates failed; an older refusal goes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / VERDICT, json.dumps(verdict.to_json(), indent=2) + "\n")
    (folder / REFUSAL).unlink(missing_ok=True)
    if not verdict.passed:
        (folder / REFUSAL).write_text(verdict.refusal() + "\n")


def read_verdict(folder: Path) -> Verdict:
    """The verdict that was written there; raises RiskflowError when nothing was judged."""
    path = folder / VERDICT
    if not path.is_file():
        raise RiskflowError(f"{folder}: nothing was judged there. Run the step `judge` first")
    about = json.loads(path.read_text())
    about.pop("passed")
    gates = [Gate(**gate) for gate in about["gates"]]
    return Verdict(**{**about, "gates": gates, "against": Comparison(**about["against"])})


def champion_bundle(registry: Registry, public_keys: PublicKeys) -> Bundle | None:
    """The bundle that scores now, its signature checked; None before the first one."""
    move = registry.champion()
    return None if move is None else verify_signature(registry.raw(move.version), public_keys)
