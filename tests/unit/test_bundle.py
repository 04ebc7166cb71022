"""What a bundle refuses: anything that its publisher did not sign, or that was not made for this plan."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from batch.bundling import build_bundle, needed
from batch.export import to_onnx
from riskflow import bundle as bundles
from riskflow.bundle import EXPECTED, GOLDEN, Bundle, canonical, check_golden, sign, verify
from riskflow.errors import BundleRefused
from riskflow.keys import public_keys_of
from riskflow.plan import Plan
from riskflow.scoring import Scorer
from riskflow.wire import decode, encode
from tests.unit.bundle_cases import DECLARED, FUNCTIONS, KEY, bundle, plan, rules_only, trained
from tests.unit.kernel_cases import plan_of

KEYS = public_keys_of(KEY)


@pytest.fixture(scope="module")
def signed() -> Bundle:
    return sign(bundle(), KEY)


def refused(raw: bytes, keys: Any = KEYS, for_plan: Plan | None = None, minimum: int = 1) -> str:
    with pytest.raises(BundleRefused) as error:
        verify(raw, keys, plan=for_plan or plan(), minimum_version=minimum)
    return str(error.value)


def remade(found: Bundle, **sections: Any) -> bytes:
    """Signed by the right key, with other sections."""
    return sign(Bundle.of({**found.manifest, **sections}, found.files), KEY).to_bytes()


def test_a_signed_bundle_comes_back_as_it_was(signed: Bundle) -> None:
    found = verify(signed.to_bytes(), KEYS, plan=plan())
    assert found == signed
    assert found.content_hash == signed.content_hash
    assert (found.version, found.usecase, found.parent) == (1, "tried", None)
    assert [m["name"] for m in found.models] == ["card_model", "shop_model", "final"]
    assert found.dictionaries == {"note": ["gift", "rent", "other"]}
    check_golden(Scorer(plan(), found))


def test_every_tampered_byte_is_found(signed: Bundle) -> None:
    raw = signed.to_bytes()
    for at in np.linspace(0, len(raw) - 1, 150).astype(int).tolist():
        changed = bytearray(raw)
        changed[at] ^= 1
        assert refused(bytes(changed))


def test_what_is_no_bundle_is_corrupted() -> None:
    for raw in (b"", b"junk", b"\x80", sign(bundle(), KEY).to_bytes()[:-9]):
        assert "corrupted" in refused(raw)


def test_an_unsigned_bundle_is_refused() -> None:
    assert "is not signed" in refused(bundle().to_bytes())


def test_a_foreign_key_is_refused(signed: Bundle) -> None:
    stranger = Ed25519PrivateKey.generate()
    assert "foreign key" in refused(sign(bundle(), stranger).to_bytes())
    assert "foreign key" in refused(signed.to_bytes(), public_keys_of(stranger))


def test_a_stranger_under_a_known_key_id_is_refused() -> None:
    forged = dataclasses.replace(sign(bundle(), Ed25519PrivateKey.generate()), key=next(iter(KEYS)))
    assert "not what key" in refused(forged.to_bytes())


def test_a_signature_of_another_bundle_is_refused(signed: Bundle) -> None:
    other = dataclasses.replace(signed.with_version(2), signature=signed.signature, key=signed.key)
    assert "not what key" in refused(other.to_bytes())


def test_a_file_that_was_swapped_for_another_is_refused(signed: Bundle) -> None:
    files = {**signed.files, "final.onnx": signed.files["shop_model.onnx"]}
    assert "'final.onnx' is not what the manifest says" in refused(dataclasses.replace(signed, files=files).to_bytes())


def test_two_forms_of_one_manifest_are_refused(signed: Bundle) -> None:
    packed = {"manifest": json.dumps(signed.manifest).encode(), "files": signed.files, "signature": b"", "key": ""}
    assert "canonical" in refused(msgspec.msgpack.encode(packed))


def test_another_use_case_is_refused() -> None:
    assert "use case 'other'" in refused(remade(bundle(), usecase="other"))


def test_an_older_version_is_refused(signed: Bundle) -> None:
    assert "older than version 5" in refused(signed.to_bytes(), minimum=5)
    assert verify(signed.to_bytes(), KEYS, plan=plan(), minimum_version=1)


def test_names_of_files_are_plain_words() -> None:
    for name in ("../x", "/etc/passwd", "a/b", "..", "", "A", "a\x00"):
        with pytest.raises(BundleRefused, match="corrupted"):
            Bundle.of(bundle().manifest, {**bundle().files, name: b""})


def test_a_giant_is_not_read(signed: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MOST_BYTES", 1000)
    assert "at most 1000" in refused(signed.to_bytes())


# ---- features --------------------------------------------------------------------------------------------------------


def changed_plan(**functions: Any) -> Plan:
    mine = {f.__name__: f for f in FUNCTIONS}
    return plan_of(*{**mine, **functions}.values(), **DECLARED)


def test_a_feature_that_changed_is_named(signed: Bundle) -> None:
    def to_usual(amount: Any, activity_amount_mean_1d: Any) -> Any:
        return amount / (activity_amount_mean_1d + 1)

    message = refused(signed.to_bytes(), for_plan=changed_plan(to_usual=to_usual))
    assert "'to_usual', which has changed" in message


def test_a_feature_that_is_gone_is_named() -> None:
    assert "'gone', which this code no longer has" in refused(remade(bundle(), needed={"gone": "1"}))


def test_features_that_the_bundle_does_not_use_never_matter(signed: Bundle) -> None:
    def is_big(amount: Any) -> Any:
        return amount > 700

    def brand_new(amount: Any) -> Any:
        return amount * 2

    assert "is_big" not in signed.needed
    assert verify(signed.to_bytes(), KEYS, plan=changed_plan(is_big=is_big, brand_new=brand_new))


def test_needed_holds_what_models_and_rules_use_through_others() -> None:
    assert {"to_usual", "activity_amount_mean_1d", "amount", "note", "channel"} <= set(bundle().needed)
    rules = needed(plan(), [], {"rules": [{"name": "r", "when": "is_big and score > 0.5"}]})
    assert set(rules) == {"is_big", "amount"}


# ---- ONNX ------------------------------------------------------------------------------------------------------------


def with_external_data(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    tensor = model.graph.initializer.add(name="weights", data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return bytes(model.SerializeToString())


def test_onnx_that_reads_other_files_is_refused() -> None:
    files = {**bundle().files, "final.onnx": with_external_data(bundle().files["final.onnx"])}
    raw = sign(Bundle.of(bundle().manifest, files), KEY).to_bytes()
    assert "keeps 'weights' in another file" in refused(raw)


def test_the_word_location_alone_is_no_external_data() -> None:
    model = onnx.load_from_string(bundle().files["final.onnx"])
    model.doc_string = "location"
    bundles.refuse_external_data(model.SerializeToString(), "model")


# ---- golden rows -----------------------------------------------------------------------------------------------------


def with_expected(name: str, row: int, value: Any) -> Bundle:
    expected, meta = decode(bundle().files[EXPECTED])
    column: Any = np.array(expected[name])
    column[row] = value
    files = {**bundle().files, EXPECTED: encode({**expected, name: column}, meta)}
    return Bundle.of(bundle().manifest, files)


@pytest.mark.parametrize(("name", "value"), [("model.final", 0.123), ("score", 0.5), ("action", 7)])
def test_golden_rows_that_come_out_differently_are_named(name: str, value: Any) -> None:
    changed = with_expected(name, 3, value)
    with pytest.raises(BundleRefused, match=rf"golden row 3, {name}, in blocks of 1"):
        check_golden(Scorer(plan(), changed))


def test_the_last_bit_counts() -> None:
    expected: Any = decode(bundle().files[EXPECTED])[0]["model.final"]
    changed = with_expected("model.final", 0, np.nextafter(expected[0], 1))
    with pytest.raises(BundleRefused, match="golden row 0"):
        check_golden(Scorer(plan(), changed))


def test_a_model_that_depends_on_the_block_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from riskflow.scoring import model_matrix

    monkeypatch.setattr("riskflow.scoring.model_matrix", lambda i, v, n: model_matrix(i, v, n)[:n])
    with pytest.raises(BundleRefused, match="in blocks of 1"):
        check_golden(Scorer(plan(), bundle()))


def test_models_without_golden_rows_are_refused() -> None:
    files = {n: c for n, c in bundle().files.items() if n not in (GOLDEN, EXPECTED)}
    with pytest.raises(BundleRefused, match="no golden rows"):
        check_golden(Scorer(plan(), Bundle.of(bundle().manifest, files)))


def test_a_policy_alone_is_a_bundle() -> None:
    found = verify(sign(rules_only(), KEY).to_bytes(), KEYS, plan=plan())
    assert found.models == []
    check_golden(Scorer(plan(), found))


def test_golden_rows_hold_what_is_needed_only() -> None:
    rows, _ = decode(bundle().files[GOLDEN])
    assert set(rows) == set(Scorer(plan(), bundle()).columns)
    assert "is_big" not in rows


# ---- making ----------------------------------------------------------------------------------------------------------


def test_a_model_that_the_plan_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="surprise"):
        build_bundle(plan(), models={"surprise": b""}, policy_numbers=rules_only().policy)


def test_a_bundle_takes_onnx_bytes_too() -> None:
    fitted = trained()[0]
    content = {n: to_onnx(m, len(plan().model_inputs(n))) for n, m in fitted.items()}
    made = build_bundle(plan(), models=content, policy_numbers=bundle().policy)
    assert made.files["final.onnx"] == bundle().files["final.onnx"]


def test_equal_content_has_an_equal_hash() -> None:
    again = Bundle.of(json.loads(canonical(bundle().manifest)), bundle().files)
    assert again.content_hash == bundle().content_hash
    assert again.with_version(2).content_hash != bundle().content_hash
