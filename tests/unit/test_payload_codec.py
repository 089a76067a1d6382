"""The payload codec: round trips, bindings, tampering, key rotation and the keyring file."""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.converter import ActivitySerializationContext, NexusSerializationContext, SerializationContext, WorkflowSerializationContext
from temporalio.exceptions import ApplicationError, FailureError

from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, Refused
from cleanroom.secret import Secret
from cleanroom.temporal.codec import ENCODING, HEADER, TOMBSTONE, PayloadCodec
from cleanroom.temporal.converter import data_converter
from cleanroom.temporal.failures import error_from_failure
from cleanroom.temporal.keyring import CodecKeyUnknown, Keyring, fingerprint
from cleanroom.temporal.workers import FAILURE_TYPES

KEYRING = Keyring.generate("k1")
SCHEDULED = "cr/a/run/nightly-2026-11-23T02:00:00Z"


def workflow(workflow_id: str, namespace: str = "default") -> WorkflowSerializationContext:
    return WorkflowSerializationContext(namespace=namespace, workflow_id=workflow_id)


def activity(workflow_id: str | None, activity_id: str = "1", namespace: str = "default") -> ActivitySerializationContext:
    return ActivitySerializationContext(
        namespace=namespace,
        activity_id=activity_id,
        activity_type="t",
        activity_task_queue="q",
        workflow_id=workflow_id,
        workflow_type=None,
        is_local=False,
    )


def codec_in(context: SerializationContext | None, keyring: Keyring = KEYRING, **options: Any) -> PayloadCodec:
    codec = PayloadCodec(keyring, **options)
    return codec if context is None else codec.with_context(context)


def code_of(codec: PayloadCodec, payload: Payload) -> str:
    """Return the code with which the codec refuses a payload."""
    with pytest.raises(CleanRoomError) as refused:
        codec.open(payload)
    return refused.value.code


PAYLOADS = st.builds(
    lambda metadata, data: Payload(metadata=metadata, data=data),
    st.one_of(
        st.just({}),
        st.sampled_from([{"encoding": e} for e in (b"json/plain", b"binary/null", b"binary/plain", b"*", b"", b"binary/encrypted")]),
        st.dictionaries(st.text(max_size=12), st.binary(max_size=20), max_size=4),
    ),
    st.binary(max_size=300),
)


@given(PAYLOADS, st.sampled_from([None, workflow("w"), activity("w"), activity(None, "a"), workflow("ü:9,", "näme")]))
def test_round_trip(payload: Payload, context: SerializationContext | None) -> None:
    codec = codec_in(context)
    before = payload.SerializeToString(deterministic=True)
    sealed = codec.seal(payload)
    assert sealed.metadata["encoding"] == ENCODING
    assert codec.open(sealed) == payload
    assert payload.SerializeToString(deterministic=True) == before, "the SDK's payload must not be changed"
    assert codec.open(codec.seal(sealed)) == sealed, "sealing twice opens twice"


@settings(max_examples=400)
@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_flipped_bit_is_refused(data: bytes, draw: st.DataObject) -> None:
    codec = codec_in(workflow("w1"))
    sealed = codec.seal(Payload(metadata={"encoding": b"json/plain"}, data=data))
    part = draw.draw(st.sampled_from(["encoding", HEADER, "data"]))
    value = bytearray(sealed.data if part == "data" else sealed.metadata[part])
    position = draw.draw(st.integers(0, len(value) * 8 - 1))
    value[position // 8] ^= 1 << position % 8
    if part == "data":
        sealed.data = bytes(value)
    else:
        sealed.metadata[part] = bytes(value)
    assert code_of(codec, sealed) in {"PayloadTampered", "PayloadMarkerStripped", "PayloadMisbound", "PayloadUnbound", "CodecKeyUnknown"}
    # Without a context the codec has no binding to compare, so authentication alone refuses.
    assert code_of(codec_in(None), sealed) in {"PayloadTampered", "PayloadMarkerStripped", "CodecKeyUnknown"}


@given(st.binary(max_size=30), st.integers(0, 60))
def test_truncated_and_extended_data_is_refused(data: bytes, length: int) -> None:
    codec = codec_in(workflow("w1"))
    sealed = codec.seal(Payload(metadata={"encoding": b"json/plain"}, data=data))
    whole = sealed.data
    sealed.data = whole[:length] if length < len(whole) else whole + b"x"
    assert code_of(codec, sealed) == "PayloadTampered"


@given(st.binary(max_size=80))
def test_arbitrary_headers_are_refused_without_a_crash(header: bytes) -> None:
    payload = Payload(metadata={"encoding": ENCODING, HEADER: header}, data=b"x" * 40)
    assert code_of(codec_in(workflow("w1")), payload) in {"PayloadTampered", "PayloadMisbound", "CodecKeyUnknown"}


def test_an_oversized_header_is_refused() -> None:
    payload = Payload(metadata={"encoding": ENCODING, HEADER: b"1:1,2:k1,999999:" + b"x" * 999999 + b","}, data=b"x" * 40)
    assert code_of(codec_in(workflow("w1")), payload) == "PayloadTampered"


def test_bindings_with_equal_concatenated_fields_differ() -> None:
    """Netstrings carry their length."""
    one = codec_in(workflow("bc", namespace="a")).seal(Payload(data=b"x"))
    assert code_of(codec_in(workflow("c", namespace="ab")), one) == "PayloadMisbound"
    assert one.metadata[HEADER].startswith(b"1:1,2:k1,1:a,1:w,2:bc,1:*,12:")


@pytest.mark.parametrize(
    ("made", "used", "options", "code"),
    [
        (workflow("w1"), workflow("w1"), {}, None),
        (workflow("w1"), activity("w1"), {}, None),
        (activity("w1"), workflow("w1"), {}, None),
        (workflow("w1"), workflow("w2"), {}, "PayloadMisbound"),
        (workflow("w1"), workflow("w1", "other"), {}, "PayloadMisbound"),
        (activity("w1"), activity("w2"), {}, "PayloadMisbound"),
        (activity(None, "a1"), activity(None, "a1"), {}, None),
        (activity(None, "a1"), activity(None, "a2"), {}, "PayloadMisbound"),
        (activity(None, "w1"), workflow("w1"), {}, "PayloadMisbound"),
        (workflow("a1"), activity(None, "a1"), {}, "PayloadMisbound"),
        (None, None, {}, None),
        (workflow("w1"), None, {}, None),
        (None, workflow("w1"), {}, "PayloadUnbound"),
        (None, workflow("w1"), {"accept_unbound": True}, None),
        (None, activity("w1"), {"accept_unbound": True}, "PayloadUnbound"),
        (None, activity(None, "a"), {"accept_unbound": True}, "PayloadUnbound"),
        (NexusSerializationContext("e", "s", "o"), workflow("w1"), {}, "PayloadUnbound"),
    ],
)
def test_a_payload_is_accepted_only_where_it_is_bound(
    made: SerializationContext | None, used: SerializationContext | None, options: dict[str, Any], code: str | None
) -> None:
    sealed = codec_in(made).seal(Payload(metadata={"encoding": b"json/plain"}, data=b"1"))
    opener = codec_in(used, **options)
    if code is None:
        assert opener.open(sealed).data == b"1"
    else:
        assert code_of(opener, sealed) == code


def test_a_misbound_payload_is_refused_although_its_header_is_cached() -> None:
    codec = PayloadCodec(KEYRING)
    sealed = codec.with_context(workflow("w1")).seal(Payload(data=b"x"))
    assert codec.open(sealed).data == b"x"
    assert codec.with_context(workflow("w1")).open(sealed).data == b"x"
    for _ in range(2):
        assert code_of(codec.with_context(workflow("w2")), sealed) == "PayloadMisbound"
    accepting = codec_in(None, accept_unbound=True)
    unbound = codec.seal(Payload(data=b"x"))
    assert accepting.with_context(workflow("w1")).open(unbound).data == b"x"
    assert code_of(accepting.with_context(activity("w1")), unbound) == "PayloadUnbound"


@pytest.mark.parametrize(
    ("prefix", "used", "code"),
    [
        ("cr/a/run/nightly", workflow(SCHEDULED), None),
        ("cr/a/run/nightly", workflow("cr/a/run/nightly"), "PayloadMisbound"),
        ("cr/a/run/night", workflow(SCHEDULED), "PayloadMisbound"),
        ("cr/a/run/nightly", workflow(SCHEDULED + "x"), "PayloadMisbound"),
        ("cr/a/run/nightly", workflow(SCHEDULED, "other"), "PayloadMisbound"),
        ("cr/a/run/nightly", activity(SCHEDULED), "PayloadMisbound"),
    ],
)
def test_a_schedules_payload_is_accepted_only_in_its_workflows(prefix: str, used: SerializationContext, code: str | None) -> None:
    sealed = codec_in(workflow(prefix), scope="schedule").seal(Payload(data=b"x"))
    if code is None:
        assert codec_in(used).open(sealed).data == b"x"
    else:
        assert code_of(codec_in(used), sealed) == code


def test_a_workflow_binding_is_not_accepted_in_a_scheduled_workflow() -> None:
    sealed = codec_in(workflow("cr/a/run/nightly")).seal(Payload(data=b"x"))
    assert code_of(codec_in(workflow(SCHEDULED)), sealed) == "PayloadMisbound"


def test_a_codec_without_a_workflow_decrypts_its_namespace_only() -> None:
    codec = PayloadCodec(KEYRING)
    sealed = codec.with_context(workflow("w1", "one")).seal(Payload(data=b"x"))
    assert codec.unbound("one").open(sealed).data == b"x"
    assert code_of(codec.unbound("two"), sealed) == "PayloadMisbound"
    unbound = codec.unbound("one").seal(Payload(data=b"x"))
    assert codec_in(workflow("w", "one"), accept_unbound=True).open(unbound).data == b"x"
    assert code_of(codec_in(workflow("w", "two"), accept_unbound=True), unbound) == "PayloadUnbound"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (Payload(metadata={"encoding": b"json/plain"}, data=b'"x"'), "PayloadNotEncrypted"),
        (Payload(metadata={"encoding": b"binary/null"}), "PayloadNotEncrypted"),
        (Payload(), "PayloadNotEncrypted"),
        (Payload(metadata={"encoding": TOMBSTONE}, data=b"{}"), "PayloadNotEncrypted"),
        (Payload(metadata={"encoding": ENCODING}, data=b"x" * 40), "PayloadTampered"),
        (Payload(metadata={"encoding": b"json/plain", HEADER: b""}, data=b'"x"'), "PayloadMarkerStripped"),
    ],
)
async def test_unencrypted_payloads_are_refused_as_tombstones(payload: Payload, code: str) -> None:
    converter = data_converter(KEYRING).with_context(workflow("w1"))
    assert code_of(codec_in(workflow("w1")), payload) == code
    with pytest.raises(ApplicationError) as raised:
        await converter.decode([payload])
    assert raised.value.type == code
    assert raised.value.non_retryable


def test_extra_metadata_on_an_encrypted_payload_is_refused() -> None:
    sealed = codec_in(workflow("w")).seal(Payload(data=b"x"))
    sealed.metadata["messageType"] = b"x"
    assert code_of(codec_in(workflow("w")), sealed) == "PayloadTampered"


async def test_a_refused_payload_leaves_the_others_readable() -> None:
    codec = codec_in(workflow("w"))
    good = codec.seal(Payload(metadata={"encoding": b"json/plain"}, data=b"1"))
    opened = await codec.decode([good, Payload(metadata={"encoding": b"json/plain"}, data=b"SECRET"), good])
    assert [payload.metadata["encoding"] for payload in opened] == [b"json/plain", TOMBSTONE, b"json/plain"]
    assert b"SECRET" not in opened[1].SerializeToString()


def test_ciphertexts_never_repeat() -> None:
    codec = codec_in(workflow("w"))
    payload = Payload(metadata={"encoding": b"json/plain"}, data=b"same")
    assert len({codec.seal(payload).SerializeToString(deterministic=True) for _ in range(200)}) == 200


class TestRotation:
    async def test_old_payloads_decrypt_and_new_ones_use_the_new_key(self) -> None:
        old = codec_in(workflow("w")).seal(Payload(data=b"old"))
        rotated = codec_in(workflow("w"), KEYRING.rotated("k2"))
        assert rotated.open(old).data == b"old"
        new = rotated.seal(Payload(data=b"new"))
        assert b"2:k2," in new.metadata[HEADER]
        assert code_of(codec_in(workflow("w")), new) == "CodecKeyUnknown"

    async def test_a_missing_key_raises_so_that_the_worker_waits(self) -> None:
        sealed = codec_in(workflow("w"), Keyring.generate("gone")).seal(Payload(data=b"x"))
        [opened] = await codec_in(workflow("w")).decode([sealed])
        with pytest.raises(CodecKeyUnknown) as raised:
            data_converter(KEYRING).payload_converter.from_payloads([opened])
        # Neither of these, because they would fail the workflow and not only its task.
        assert not isinstance(raised.value, (FailureError, *FAILURE_TYPES))
        error = error_from_failure(raised.value)
        assert (error.code, error.retryable, "'gone'" in error.message) == ("CodecKeyUnknown", True, True)

    def test_a_key_can_be_added_before_it_becomes_current(self) -> None:
        prepared = KEYRING.rotated("k2", make_current=False)
        assert prepared.current == "k1"
        assert prepared.using("k2").current == "k2"
        with pytest.raises(NotFound, match="CodecKeyNotFound"):
            prepared.using("k3")
        with pytest.raises(InvalidInput):
            prepared.rotated("k1")


class TestKeyring:
    def test_the_id_of_a_generated_key_is_its_fingerprint(self, tmp_path: Path) -> None:
        rings = [Keyring.generate() for _ in range(3)]
        assert len({ring.current for ring in rings}) == 3
        ring = rings[0].rotated()
        assert ring.current != rings[0].current
        ring.save(tmp_path / "keyring.json")
        keys = json.loads((tmp_path / "keyring.json").read_text())["keys"]
        for key_id, text in keys.items():
            key = base64.b64decode(text)
            assert fingerprint(Secret(key)) == key_id
            assert key_id not in key.hex()
            assert not hashlib.sha256(key).hexdigest().startswith(key_id)

    def test_a_saved_keyring_has_mode_0600_and_loads(self, tmp_path: Path) -> None:
        file = tmp_path / "keyring.json"
        ring = Keyring.generate("a").rotated("b")
        ring.save(file)
        assert file.stat().st_mode & 0o777 == 0o600
        loaded = Keyring.load(file)
        assert (loaded.current, loaded.key_ids) == ("b", ("a", "b"))
        sealed = codec_in(workflow("w"), ring).seal(Payload(data=b"x"))
        assert codec_in(workflow("w"), loaded).open(sealed).data == b"x"

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
    def test_a_readable_file_is_refused(self, tmp_path: Path, mode: int) -> None:
        file = tmp_path / "keyring.json"
        Keyring.generate().save(file)
        file.chmod(mode)
        with pytest.raises(Refused) as refused:
            Keyring.load(file)
        assert refused.value.code == "SecretFileTooOpen"

    def test_a_missing_keyring_file_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            Keyring.load(tmp_path / "none")

    @pytest.mark.parametrize(
        "text",
        [
            "SECRETWORD",
            "[]",
            "{}",
            '{"current": "a", "keys": []}',
            '{"current": "a", "keys": {"a": "SECRETWORD!"}}',
            json.dumps({"current": "a", "keys": {"a": base64.b64encode(b"short SECRETWORD").decode()}}),
            json.dumps({"current": "b", "keys": {"a": base64.b64encode(bytes(32)).decode()}}),
            json.dumps({"current": "a b", "keys": {"a b": base64.b64encode(bytes(32)).decode()}}),
        ],
    )
    def test_malformed_keyring_files_are_rejected_without_quoting_them(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "keyring.json"
        file.write_text(text)
        file.chmod(0o600)
        with pytest.raises(InvalidInput) as refused:
            Keyring.load(file)
        assert refused.value.code == "KeyringMalformed"
        assert "SECRETWORD" not in str(refused.value.to_dict())
        assert refused.value.__cause__ is None

    def test_a_keyring_cannot_be_printed_or_pickled(self) -> None:
        key = b"K" * 32
        ring = Keyring("a", {"a": Secret(key)})
        assert "K" * 8 not in repr(ring)
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError):
                attempt(ring)

    def test_each_namespace_has_its_own_key(self) -> None:
        sealed = KEYRING.cipher("k1", "one").encrypt(bytes(12), b"x", None)
        with pytest.raises(InvalidTag):
            KEYRING.cipher("k1", "two").decrypt(bytes(12), sealed, None)


async def test_the_converter_encrypts_failures() -> None:
    from temporalio.api.failure.v1 import Failure

    converter = data_converter(KEYRING).with_context(workflow("w"))
    failure = Failure()
    try:
        raise Refused("SomeCode", "with CANARY", details={"x": "CANARY"})
    except Refused as error:
        await converter.encode_failure(error, failure)
    raw = failure.SerializeToString()
    assert b"CANARY" not in raw
    assert b"SomeCode" in raw
    back = await converter.decode_failure(failure)
    assert isinstance(back, ApplicationError)
    assert back.type == "SomeCode"
    assert back.message == "with CANARY"
    assert back.details[0]["details"] == {"x": "CANARY"}


def test_secrets_cannot_become_payloads() -> None:
    with pytest.raises(ApplicationError) as raised:
        asyncio.run(data_converter(KEYRING).encode([{"key": Secret(b"CANARY")}]))
    assert raised.value.type == "PayloadUnserialisable"
    assert "CANARY" not in str(raised.value)
