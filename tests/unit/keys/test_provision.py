"""``set_key_with_skr`` with a vault in memory: what it asks for, and which existing or created key it accepts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ResourceNotFoundError, ServiceRequestError
from cryptography.hazmat.primitives.asymmetric import rsa

from cleanroom.errors import CleanRoomError, Conflict
from cleanroom.keys import KeyVaultSettings, ReleasePolicy, set_key_with_skr
from tests.shared_keys import rsa_key
from tests.unit.keys.conftest import service_answer

POLICY = ReleasePolicy.for_clean_room("https://maa.example", "ab" * 32)
WEAKER = ReleasePolicy.for_clean_room("https://maa.example", "ab" * 32, strict=False)
KEY = rsa_key()
NUMBERS = KEY.private_numbers()
PUBLIC = NUMBERS.public_numbers
TAGS = {"cleanroom-purpose": "dataset-kek", "dataset": "flights"}
ID = "https://vault.example/keys/kek/v1"


def octets(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def held(*, numbers: rsa.RSAPublicNumbers = PUBLIC, policy: Any = POLICY, key_type: str = "RSA-HSM", **changes: Any) -> Any:
    """A key as the vault returns it."""
    encoded = policy.encode() if isinstance(policy, ReleasePolicy) else policy
    found = None if policy is None else SimpleNamespace(encoded_policy=encoded, immutable=changes.pop("immutable", False))
    properties = {"exportable": True, "enabled": True, "tags": dict(TAGS), "version": "v1", "release_policy": found} | changes
    key = SimpleNamespace(e=octets(numbers.e), n=octets(numbers.n))
    return SimpleNamespace(id=ID, name="kek", key_type=key_type, key=key, properties=SimpleNamespace(**properties))


MISSING = service_answer(ResourceNotFoundError, 404, "KeyNotFound")


class Vault(KeyVaultSettings):
    """A vault whose answers are given: one for each read, and one for the creation. An exception is raised."""

    vault_url: str = "https://vault.example"
    reads: list[Any] = []
    made: Any = None
    calls: list[tuple[str, Any]] = []

    def client(self, credential: Any) -> Any:
        vault = self

        class Client:
            def __enter__(self) -> Client:
                return self

            def __exit__(self, *error: object) -> None:
                vault.calls.append(("close", None))

            def get_key(self, name: str) -> Any:
                vault.calls.append(("get", name))
                return _given(vault.reads.pop(0))

            def create_rsa_key(self, name: str, **options: Any) -> Any:
                vault.calls.append(("create", (name, options)))
                return _given(vault.made)

            def import_key(self, name: str, key: Any, **options: Any) -> Any:
                vault.calls.append(("import", (name, key, options)))
                return _given(vault.made)

        assert credential == "credential"
        return Client()

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def _given(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def vault_with(*reads: Any, made: Any = None) -> Vault:
    return Vault.model_construct(vault_url="https://vault.example", reads=list(reads), made=made, calls=[])


async def provision(vault: Vault, **options: Any) -> Any:
    credential: Any = "credential"
    values = {"name": "kek", "policy": POLICY, "tags": {"dataset": "flights"}, **options}
    return await set_key_with_skr(vault=vault, credential=credential, **values)


async def error_of(vault: Vault, **options: Any) -> CleanRoomError:
    with pytest.raises(CleanRoomError) as caught:
        await provision(vault, **options)
    return caught.value


# ---------------------------------------------------------------------- what is asked


@pytest.mark.parametrize("immutable", [True, False])
async def test_created_key_is_exportable_from_the_hsm_under_exactly_the_policy(immutable: bool) -> None:
    vault = vault_with(MISSING, made=held(immutable=immutable))
    reference = await provision(vault, size=3072, immutable=immutable)
    (name, options) = vault.calls[1][1]
    policy = options.pop("release_policy")
    assert (vault.names(), name) == (["get", "create", "close"], "kek")
    assert (policy.encoded_policy, policy.content_type, policy.immutable) == (
        POLICY.encode(),
        "application/json; charset=utf-8",
        immutable,
    )
    assert options == {
        "size": 3072,
        "hardware_protected": True,
        "exportable": True,
        "tags": TAGS,
        "key_operations": ["encrypt", "wrapKey"],
    }
    assert (reference.key_id, reference.name, reference.version, reference.created) == (ID, "kek", "v1", True)
    assert reference.policy == POLICY.document()
    assert reference.public_key().public_numbers() == PUBLIC


async def test_created_key_has_2048_bits_and_a_mutable_policy_by_default() -> None:
    vault = vault_with(MISSING, made=held())
    await provision(vault)
    options = vault.calls[1][1][1]
    assert (options["size"], options["release_policy"].immutable) == (2048, False)


async def test_imported_key_is_sent_whole() -> None:
    vault = vault_with(MISSING, made=held())
    await provision(vault, key=KEY, size=1)
    name, sent, options = vault.calls[1][1]
    assert (vault.names()[1], name, sent.kty, sent.key_ops) == ("import", "kek", "RSA-HSM", ["encrypt", "wrapKey"])
    members = {member: int.from_bytes(getattr(sent, member), "big") for member in ("n", "e", "d", "p", "q", "dp", "dq", "qi")}
    assert members == {
        "n": PUBLIC.n,
        "e": PUBLIC.e,
        "d": NUMBERS.d,
        "p": NUMBERS.p,
        "q": NUMBERS.q,
        "dp": NUMBERS.dmp1,
        "dq": NUMBERS.dmq1,
        "qi": NUMBERS.iqmp,
    }
    assert (options["hardware_protected"], options["exportable"], options["tags"]) == (True, True, TAGS)
    assert options["release_policy"].encoded_policy == POLICY.encode()


@pytest.mark.parametrize(("bits", "accepted"), [(2048, True), (3072, True), (4096, True), (1024, False), (2049, False), (8192, False)])
async def test_only_sizes_of_key_vault_are_asked(bits: int, accepted: bool) -> None:
    vault = vault_with(MISSING, made=held())
    if accepted:
        await provision(vault, size=bits)
    else:
        assert (await error_of(vault, size=bits)).code == "UnsupportedKekSize"
    assert bool(vault.calls) is accepted


async def test_imported_key_of_another_size_is_not_sent() -> None:
    vault = vault_with(MISSING, made=held())
    assert (await error_of(vault, key=rsa_key("short", 1024))).code == "UnsupportedKekSize"
    assert vault.calls == []


# ---------------------------------------------------------------------- which key is accepted

OTHER_KEY = rsa_key("other").public_key().public_numbers()
DIFFERENCES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("protection", {"key_type": "RSA"}, {}),
    ("protection", {"exportable": False}, {}),
    ("protection", {"enabled": False}, {}),
    ("protection", {"exportable": None}, {}),
    ("release_policy", {"policy": WEAKER}, {}),
    ("release_policy", {"policy": None}, {}),
    ("release_policy", {"policy": b"{}"}, {}),
    ("immutable", {"immutable": False}, {"immutable": True}),
    ("tags", {"tags": TAGS | {"dataset": "planes"}}, {}),
    ("tags", {"tags": {"dataset": "flights"}}, {}),
    ("tags", {"tags": None}, {}),
    ("public_key", {"numbers": OTHER_KEY}, {"key": KEY}),
]


@pytest.mark.parametrize(("aspect", "found", "asked"), DIFFERENCES)
async def test_existing_key_that_differs_is_a_conflict_and_stays(aspect: str, found: dict[str, Any], asked: dict[str, Any]) -> None:
    vault = vault_with(held(**found))
    error = await error_of(vault, **asked)
    assert isinstance(error, Conflict)
    assert (error.code, error.party, list(error.details)) == ("KeyExistsWithOtherContent", "key-owner", [aspect])
    assert vault.names() == ["get", "close"]


@pytest.mark.parametrize(("aspect", "found", "asked"), DIFFERENCES)
async def test_created_key_that_differs_is_not_used(aspect: str, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """A vault that stored another policy could release the key to another guest."""
    error = await error_of(vault_with(MISSING, made=held(**found)), **asked)
    assert (error.code, list(error.details)) == ("KeyVaultAnswerUnexpected", [aspect])


async def test_differences_show_both_sides() -> None:
    found = {
        "key_type": "RSA",
        "exportable": False,
        "enabled": True,
        "policy": WEAKER,
        "tags": {"dataset": "planes", "more": "1"},
        "numbers": OTHER_KEY,
    }
    details = (await error_of(vault_with(held(**found)), immutable=True, key=KEY)).details
    assert details == {
        "protection": {"expected": "RSA-HSM, exportable, enabled", "actual": "RSA, exportable=False, enabled=True"},
        "release_policy": {"expected": POLICY.document(), "actual": WEAKER.document()},
        "immutable": {"expected": True, "actual": False},
        "tags": {"expected": TAGS, "actual": {"cleanroom-purpose": None, "dataset": "planes"}},
        "public_key": {"expected": "the key to import", "actual": "another key"},
    }


async def test_key_of_another_kind_without_a_policy_is_described() -> None:
    elliptic = held(key_type="EC", policy=None)
    elliptic.key = SimpleNamespace()
    assert list((await error_of(vault_with(elliptic), immutable=True, key=KEY)).details) == [
        "protection",
        "release_policy",
        "immutable",
        "public_key",
    ]


async def test_key_without_further_tags_has_the_purpose_only() -> None:
    vault = vault_with(MISSING, made=held(tags={"cleanroom-purpose": "dataset-kek"}))
    await provision(vault, tags=None)
    assert vault.calls[1][1][1]["tags"] == {"cleanroom-purpose": "dataset-kek"}


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        ({}, {}),
        ({}, {"key": KEY}),
        ({"numbers": OTHER_KEY}, {}),
        ({"tags": TAGS | {"more": "1"}}, {}),
        ({"immutable": True}, {"immutable": True}),
        ({"immutable": True}, {}),
    ],
)
async def test_existing_key_with_the_same_content_is_reused(found: dict[str, Any], asked: dict[str, Any]) -> None:
    vault = vault_with(held(**found))
    reference = await provision(vault, **asked)
    assert (reference.created, reference.policy) == (False, POLICY.document())
    assert vault.names() == ["get", "close"]


# ---------------------------------------------------------------------- refusals of the vault

IMMUTABLE = "AKV.SKR.1020: Immutable Key Release Policy cannot be modified."


async def test_key_that_cannot_be_read_is_not_created() -> None:
    vault = vault_with(service_answer(HttpResponseError, 403, "Forbidden", inner="ForbiddenByRbac"), made=held())
    error = await error_of(vault)
    assert (error.code, error.details["status"]) == ("ForbiddenByRbac", 403)
    assert vault.names() == ["get", "close"]


async def test_name_of_a_deleted_key_is_a_conflict_of_the_keys_owner() -> None:
    error = await error_of(
        vault_with(MISSING, made=service_answer(ResourceExistsError, 409, "Conflict", inner="ObjectIsDeletedButRecoverable"))
    )
    assert (error.code, error.party) == ("ObjectIsDeletedButRecoverable", "key-owner")


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (service_answer(HttpResponseError, 400, "BadParameter", "AKV.SKR.1003: x"), "BadParameter"),
        (service_answer(HttpResponseError, 403, "Forbidden", inner="ForbiddenByRbac"), "ForbiddenByRbac"),
        (ServiceRequestError("no route"), "KeyVaultUnreachable"),
    ],
)
async def test_other_refusal_of_the_creation_keeps_its_code(made: AzureError, code: str) -> None:
    vault = vault_with(MISSING, held(), made=made)
    error = await error_of(vault)
    assert (error.code, error.party) == (code, None)
    assert vault.names() == ["get", "create", "close"]


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (lambda: held(), "reused"),
        (lambda: held(policy=WEAKER), "KeyExistsWithOtherContent"),
        (lambda: service_answer(HttpResponseError, 503, "ServiceUnavailable"), "ServiceUnavailable"),
    ],
)
async def test_key_that_a_concurrent_attempt_created_is_compared(second: Callable[[], Any], code: str) -> None:
    vault = vault_with(MISSING, second(), made=service_answer(HttpResponseError, 400, "BadParameter", IMMUTABLE))
    if code == "reused":
        assert not (await provision(vault)).created
    else:
        assert (await error_of(vault)).code == code
    assert vault.names() == ["get", "create", "get", "close"]
