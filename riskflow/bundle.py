"""The bundle: everything that scoring needs beside the plan, under one content hash and one signature.

A bundle is a manifest (JSON) and a few files (ONNX of every layer, golden rows). The manifest holds the sha256 of each
file; the content hash is the sha256 of the manifest in its one canonical form, and that is what is signed. So nothing
can change without the signature failing, and two bundles are equal exactly when their hashes are.

A bundle without models is a policy alone: every score is 0.0 and the rules decide.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from riskflow.columns import Columns, Text, n_rows, take
from riskflow.errors import BundleRefused
from riskflow.keys import PublicKeys, is_signed, key_id
from riskflow.wire import decode

if TYPE_CHECKING:
    from riskflow.plan import Plan
    from riskflow.scoring import Scorer

MOST_BYTES = 256 * 1024 * 1024
FORMAT = 1
GOLDEN, EXPECTED = "golden.rf", "golden_expected.rf"
CARD = "card.json"  # what a model card shows: curves, importances, segments; nothing that scoring needs
GOLDEN_BLOCKS = (1, 2, 7, 64, 512)
_SIGNED = b"riskflow bundle 1\n"  # what a signature is over never starts like another kind of message
_FILE = re.compile(r"[a-z][a-z0-9_]{0,62}(\.[a-z]{1,8})?")
_SECTIONS: dict[str, type | tuple[type, ...]] = {
    "format": int, "usecase": str, "version": int, "created_at": str, "code": str, "data": dict, "models": list,
    "needed": dict, "policy": dict, "dictionaries": dict, "reference": dict, "profile": dict,
    "metrics": dict, "files": dict,
}  # fmt: skip


class _Packed(msgspec.Struct, forbid_unknown_fields=True):
    manifest: bytes
    files: dict[str, bytes]
    signature: bytes
    key: str


@dataclass(frozen=True)
class Bundle:
    """A published state of a use case. Read it with `verify`; make it with `batch.bundling.build_bundle`."""

    manifest: dict[str, Any]
    files: dict[str, bytes] = field(repr=False)
    signature: bytes = field(default=b"", repr=False)
    key: str = ""  # id of the public key

    @property
    def version(self) -> int:
        return int(self.manifest["version"])

    @property
    def usecase(self) -> str:
        return str(self.manifest["usecase"])

    @property
    def parent(self) -> int | None:
        """The version that was champion when this one was judged."""
        return self.manifest.get("parent")

    @property
    def models(self) -> list[dict[str, Any]]:
        """{name, inputs, file} of every layer, lowest first; the last one's output becomes the score.

        `trees`, where a model has it, is the file of the same model flattened (riskflow.trees).
        """
        return list(self.manifest["models"])

    @property
    def needed(self) -> dict[str, str]:
        """Fields and features that models and rules use, directly or not, with their fingerprints."""
        return dict(self.manifest["needed"])

    @property
    def policy(self) -> dict[str, Any]:
        return dict(self.manifest["policy"])

    @property
    def dictionaries(self) -> dict[str, list[str]]:
        """Values of each text field that models use; the code is the place in the list, -1 what is not there."""
        return dict(self.manifest["dictionaries"])

    @property
    def calibration(self) -> dict[str, list[float]] | None:
        """Points {x, y}: the last model's output becomes a probability by interpolation between them."""
        return self.manifest.get("calibration")

    @property
    def reasons(self) -> dict[str, str]:
        return dict(self.policy.get("reasons", {}))

    @property
    def reference(self) -> dict[str, float | None]:
        """What is usual: the median of each model input over genuine rows (None: not known)."""
        return dict(self.manifest["reference"])

    @property
    def profile(self) -> dict[str, Any]:
        return dict(self.manifest["profile"])

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(self.manifest["metrics"])

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.manifest["data"])

    @property
    def card(self) -> dict[str, Any]:
        """What batch/card/evidence.py has found; empty for a bundle that was made without it."""
        return dict(json.loads(self.files[CARD])) if CARD in self.files else {}

    @property
    def made_of(self) -> str:
        """A hash that publishing leaves as it is: of everything but the version and the parent."""
        content = {k: v for k, v in self.manifest.items() if k not in ("version", "parent")}
        return hashlib.sha256(canonical(content)).hexdigest()

    @property
    def code(self) -> str:
        return str(self.manifest["code"])

    @property
    def created_at(self) -> str:
        return str(self.manifest["created_at"])

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(canonical(self.manifest)).hexdigest()

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(_Packed(canonical(self.manifest), self.files, self.signature, self.key))

    @classmethod
    def of(cls, sections: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
        """An unsigned bundle; the hashes of its files are added here."""
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        manifest = json.loads(canonical({**sections, "format": FORMAT, "files": hashes}))
        bundle = cls(manifest, dict(files))
        _check_shape(bundle)
        return bundle

    @classmethod
    def from_bytes(cls, raw: bytes) -> Bundle:
        """What the bytes say, with every hash checked but nothing trusted: only `verify` looks at the signature."""
        packed = _unpack(raw)
        manifest = _manifest(packed.manifest)
        bundle = cls(manifest, packed.files, packed.signature, packed.key)
        _check_shape(bundle)
        _check_files(bundle)
        return bundle

    def with_version(self, version: int, parent: int | None = None) -> Bundle:
        """The same content under another version, to be signed anew."""
        kept = {"parent": parent} if parent is not None else {}
        return replace(self, manifest={**self.manifest, "version": version, **kept}, signature=b"", key="")


def canonical(manifest: Mapping[str, Any]) -> bytes:
    """The one form of a manifest as bytes."""
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sign(bundle: Bundle, private_key: Ed25519PrivateKey) -> Bundle:
    """The bundle with a signature over its content hash."""
    signature = private_key.sign(_SIGNED + bundle.content_hash.encode())
    return replace(bundle, signature=signature, key=key_id(private_key.public_key()))


def verify(raw: bytes, public_keys: PublicKeys, *, plan: Plan, minimum_version: int = 1) -> Bundle:
    """The bundle, if it is intact, signed by one of the keys, new enough and made for this plan; else BundleRefused.

    Golden rows come next: `check_golden(Scorer(plan, bundle))`.
    """
    bundle = verify_signature(raw, public_keys)
    if bundle.usecase != plan.name:
        raise BundleRefused(f"{_who(bundle)} is for use case {bundle.usecase!r}, not for {plan.name!r}")
    if bundle.version < minimum_version:
        raise BundleRefused(f"{_who(bundle)} is older than version {minimum_version}, the oldest that is allowed")
    check_features(bundle, plan)
    for model in bundle.models:
        refuse_external_data(bundle.files[model["file"]], f"{_who(bundle)}, model {model['name']!r}")
    return bundle


def verify_signature(raw: bytes, public_keys: PublicKeys) -> Bundle:
    """The bundle as its publisher signed it; BundleRefused when it is corrupted, unsigned or somebody else's."""
    bundle = Bundle.from_bytes(raw)
    if not bundle.signature:
        raise BundleRefused(f"{_who(bundle)} is not signed. Only what `publish` signed is loaded")
    key = public_keys.get(bundle.key)
    if key is None:
        raise BundleRefused(
            f"{_who(bundle)} is signed with the foreign key {bundle.key!r}; known: {sorted(public_keys)}"
        )
    if not is_signed(key, bundle.signature, _SIGNED + bundle.content_hash.encode()):
        raise BundleRefused(f"{_who(bundle)} is corrupted: its content is not what key {bundle.key} signed")
    return bundle


def version_of(raw: bytes) -> int | None:
    """The version that a bundle says it has; nothing is checked."""
    found = _manifest(_unpack(raw).manifest).get("version")
    return found if isinstance(found, int) else None


def refuse_external_data(onnx_bytes: bytes, who: str) -> None:
    """Refuses a model that would read other files. Such a reference is an entry with the key `location`."""
    if b"location" not in onnx_bytes:
        return
    from onnx import load_from_string  # half a second to import, and hardly ever needed
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    names = [t.name for t in _get_all_tensors(load_from_string(onnx_bytes)) if uses_external_data(t) or t.external_data]
    if names:
        raise BundleRefused(f"{who} keeps {names[0]!r} in another file. Export it with its weights inside")


# ---- golden rows -----------------------------------------------------------------------------------------------------


def check_golden(scorer: Scorer, rest: Callable[[float], None] | None = None) -> None:
    """Scores the golden rows in blocks of several sizes; BundleRefused unless all bytes are the expected ones.

    rest: called after each block with the seconds that it took, where others need the processor meanwhile.
    """
    rows, expected = _golden(scorer.bundle)
    if rows is None:
        return
    n = n_rows(rows)
    for size in GOLDEN_BLOCKS:
        order = np.arange(max(n, size)) % n
        for start in range(0, len(order), size):
            began = time.perf_counter()
            block = order[start : start + size]
            _compare(scorer.bundle, scorer.golden(take(rows, block)), take(expected, block), block, size)
            if rest is not None:
                rest(time.perf_counter() - began)


def _golden(bundle: Bundle) -> tuple[Columns | None, Columns]:
    if GOLDEN not in bundle.files:
        if bundle.models:
            raise BundleRefused(f"{_who(bundle)} has models but no golden rows. Train it again")
        return None, {}
    try:
        return decode(bundle.files[GOLDEN])[0], decode(bundle.files[EXPECTED])[0]
    except (KeyError, ValueError) as error:
        raise BundleRefused(f"{_who(bundle)} has golden rows that cannot be read: {error}") from None


def _compare(bundle: Bundle, got: Columns, expected: Columns, rows: Any, size: int) -> None:
    if got.keys() != expected.keys():
        raise BundleRefused(f"{_who(bundle)}: golden rows hold {sorted(expected)}, scoring gives {sorted(got)}")
    for name, column in expected.items():
        differing = _differing(got[name], column)
        if len(differing):
            row = int(differing[0])
            raise BundleRefused(
                f"{_who(bundle)}: golden row {rows[row]}, {name}, in blocks of {size}: "
                f"{_show(got[name], row)} here, {_show(column, row)} where it was trained"
            )


def _differing(got: Any, expected: Any) -> Any:
    if isinstance(expected, Text):
        return np.flatnonzero([a != b for a, b in zip(got.values(), expected.values(), strict=True)])
    bits = f"u{expected.dtype.itemsize}"
    return np.flatnonzero(np.ascontiguousarray(got).view(bits) != np.ascontiguousarray(expected).view(bits))


def _show(column: Any, row: int) -> str:
    return repr(column.values()[row].decode() if isinstance(column, Text) else column[row].item())


# ---- what is checked before anything is believed ---------------------------------------------------------------------


def _unpack(raw: bytes) -> _Packed:
    if len(raw) > MOST_BYTES:
        raise BundleRefused(f"a bundle of {len(raw)} bytes; at most {MOST_BYTES} are read")
    try:
        return msgspec.msgpack.decode(raw, type=_Packed)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BundleRefused(f"corrupted: not a bundle ({error})") from None


def _manifest(raw: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
        intact = isinstance(manifest, dict) and canonical(manifest) == raw
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise BundleRefused("corrupted: the manifest cannot be read, or is not in its canonical form")
    return dict(manifest)


def _check_shape(bundle: Bundle) -> None:
    manifest = bundle.manifest
    for name, kind in _SECTIONS.items():
        if not isinstance(manifest.get(name), kind):
            raise BundleRefused(f"corrupted: the manifest has no usable {name!r}")
    if manifest["format"] != FORMAT:
        raise BundleRefused(f"{_who(bundle)} has format {manifest['format']}; this code reads {FORMAT}. Update it")
    names = set(bundle.files)
    if any(not _FILE.fullmatch(name) for name in names) or names != set(manifest["files"]):
        raise BundleRefused(
            f"corrupted: {_who(bundle)} lists the files {sorted(manifest['files'])}, holds {sorted(names)}"
        )
    known = [*names]  # a list may be asked for anything that JSON can say
    for model in manifest["models"]:
        usable = isinstance(model, dict) and model.get("file") in known and isinstance(model.get("inputs"), list)
        if not usable or ("trees" in model and model["trees"] not in known):
            raise BundleRefused(f"corrupted: {_who(bundle)} names a model without its file or inputs: {model!r}")


def _check_files(bundle: Bundle) -> None:
    for name, content in bundle.files.items():
        if hashlib.sha256(content).hexdigest() != bundle.manifest["files"][name]:
            raise BundleRefused(f"corrupted: {_who(bundle)}, file {name!r} is not what the manifest says")


def check_features(bundle: Bundle, plan: Plan) -> None:
    """Only what the bundle needs matters: a feature added to the use case never invalidates it."""
    for name, fingerprint in bundle.needed.items():
        node = plan.nodes.get(name)
        if node is None:
            raise BundleRefused(f"{_who(bundle)} needs the feature {name!r}, which this code no longer has. Train anew")
        if node.fingerprint != fingerprint:
            raise BundleRefused(f"{_who(bundle)} needs the feature {name!r}, which has changed since. Train anew")


def _who(bundle: Bundle) -> str:
    return f"bundle {bundle.manifest.get('version')} of {bundle.manifest.get('usecase')}"
