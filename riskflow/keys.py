"""Signing keys (Ed25519). The private one is read by whoever publishes; workers hold public ones (`*.pub`) only."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from riskflow.errors import NotReady, RiskflowError

PRIVATE, PUBLIC = "signing.key", "signing.pub"
PublicKeys = Mapping[str, Ed25519PublicKey]  # by key id


def make_keys(folder: Path) -> bool:
    """Writes a pair where there is none and says whether it did; an existing key is never overwritten."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = _write_new(folder / PRIVATE, _private_bytes(Ed25519PrivateKey.generate()))
    public = load_private_key(folder).public_key()
    _write_new(folder / PUBLIC, public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo), 0o644)
    return made


def load_private_key(folder: Path) -> Ed25519PrivateKey:
    """The key that signs; refused when anybody but its owner may read it."""
    path = folder / PRIVATE
    if not path.is_file():
        raise NotReady(f"no signing key {path}. Make one: riskflow keys")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise RiskflowError(f"signing key {path} has the mode {mode:o}: others may read it. Run: chmod 600 {path}")
    with suppress(ValueError, TypeError):  # not PEM; or with a password
        key = form.load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise RiskflowError(f"signing key {path} is not a plain Ed25519 key in PEM. Move it away and run: riskflow keys")


def load_public_keys(folder: Path) -> dict[str, Ed25519PublicKey]:
    """Every key whose signature is accepted, by its id. Put a second .pub there to change keys without a pause."""
    keys = [_load_public(path) for path in sorted(folder.glob("*.pub"))]
    if not keys:
        raise NotReady(f"no public key (*.pub) in {folder}. Make a pair: riskflow keys")
    return {key_id(k): k for k in keys}


def key_id(key: Ed25519PublicKey) -> str:
    """A short name of a public key."""
    return hashlib.sha256(key.public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)).hexdigest()[:16]


def public_keys_of(private_key: Ed25519PrivateKey) -> dict[str, Ed25519PublicKey]:
    """What accepts this key's signatures and no others."""
    public = private_key.public_key()
    return {key_id(public): public}


def is_signed(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the key's owner signed exactly this."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _load_public(path: Path) -> Ed25519PublicKey:
    with suppress(ValueError):
        key = form.load_pem_public_key(path.read_bytes())
        if isinstance(key, Ed25519PublicKey):
            return key
    raise RiskflowError(f"public key {path} is not an Ed25519 key in PEM. Copy it again or remove it")


def _private_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def _write_new(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Creates the file with its mode from the first moment; false when it is there already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return True
