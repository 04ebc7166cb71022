"""The key with which hashed ids are made. Every worker and batch task must use the same one, for ever."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from riskflow.errors import NotReady
from riskflow.plan import Plan

FILE = "hash.key"


def read_hash_key(plan: Plan, folder: Path) -> bytes:
    """The key, or nothing where no entity of the plan is hashed; raises NotReady when it is missing."""
    if not any(e.hashed for e in plan.usecase.entities):
        return b""
    try:
        return bytes.fromhex((folder / FILE).read_text().strip())
    except (FileNotFoundError, ValueError):
        raise NotReady(f"{folder / FILE}: no key for hashed ids. Run `riskflow keys` once and keep it.") from None


def make_hash_key(folder: Path) -> bool:
    """Makes the key where there is none; returns whether it did. An existing one is never touched."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    return True
