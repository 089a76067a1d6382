"""Files of datasets: what `dataset check` accepts is never refused later because of the file, and what it refuses has no effect."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cleanroom.clients.objects import require_prefix
from cleanroom.clients.owned import read_secret_reference
from cleanroom.datasets.schema import arrow_schema
from cleanroom.documents.dataset import MAX_COLUMNS, parse_dataset
from cleanroom.documents.specs import BlobStoreSpec, DatasetSpec, S3StoreSpec, load_dataset_spec
from cleanroom.errors import CleanRoomError, InvalidInput
from cleanroom.identifiers import user_secret_id, user_secret_name
from cleanroom.messages.publish import (
    CleanRoomIdentity,
    DescriptorRequest,
    EncryptionKey,
    ManagedIdentity,
    PublishDatasetInput,
    StoredSecret,
)
from cleanroom.publishing.dataset_advice import remarks
from cleanroom.publishing.descriptor import generate_descriptor
from cleanroom.publishing.verification import verify_descriptor_matches_spec
from cleanroom.settings import Settings
from cleanroom.sql import Catalog, view_of
from starters.cli import app

Json = dict[str, Any]
runner = CliRunner()

BASE: Json = {
    "name": "d",
    "format": "csv",
    "schema": {"person": "string", "city": "string", "amount": "number"},
    "store": {"kind": "aws-s3", "bucket": "litware", "connectionSecret": "secret:s3"},
}
BLOB: Json = {"kind": "azure-blob", "container": "abc"}


def written(folder: Path, members: Json | str) -> Path:
    file = folder / "dataset.yaml"
    file.write_text(members if isinstance(members, str) else yaml.safe_dump(members, sort_keys=False, allow_unicode=True))
    return file


# ------------------------------------------------------------------ whatever passes

_names = st.sampled_from(
    ["person", "city", "amount", "Person", "x", "", "__cr_n", "__CR_n", "größe", "a`b", "a b", "a.b", "p\0q", "x" * 129]
)
_lists = st.lists(_names, max_size=3)
_odd = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 10**12), st.floats(), st.text(max_size=5), st.just([]), st.just({}), st.just({"a": []})
)
_types = st.sampled_from(["string", "integer", "number", "boolean", "date", "long", "timestamp", "int", True])
_schemas = st.dictionaries(_names, _types, max_size=4)
_folders = st.sampled_from(["", "a", "a/b", "/a", "a/", "a//b", "..", "a\\b", "a\nb", "\x7f", "é", "x" * 600, ".", "_cleanroom"])
_references = st.sampled_from(
    ["secret:s3", "secret:", "secret:A", "file:", "file:/x", "file:a\nb", "env:HOME", "env:CLEANROOM_SECRET_X", "AKIA", ""]
)
_floors = st.fixed_dictionaries(
    {},
    optional={
        "minGroupSize": st.sampled_from([0, 1, 20, 2**31 - 1, 2**31, -1, True, False, "20", 2.5]),
        "identity": _names,
        "identityColumn": _names,
        "dimensions": _lists,
        "allowedOutputColumns": _lists,
        "measures": _lists,
        "maxSharePercent": st.sampled_from([1, 80, 100, 101, 0, True, "5"]),
        "minGroupsize": st.just(3),
    },
)
_buckets = st.sampled_from(["litware", "a..b", "192.168.5.4", "xn--bucket", "a-s3alias", "ab", "A", "a.b.c"])
_stores = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("aws-s3"), "bucket": _buckets, "connectionSecret": _references},
        optional={"subdirectory": _folders, "region": st.just("x")},
    ),
    st.fixed_dictionaries(
        {"kind": st.just("azure-blob"), "container": st.sampled_from(["abc", "a--b", "a-b", "ABC", "ab"])},
        optional={"subdirectory": _folders},
    ),
    st.just({"kind": "gcs"}),
)
_dialects = st.fixed_dictionaries(
    {},
    optional={
        "delimiter": st.sampled_from([";", "\t", "ab", '"']),
        "nullText": st.sampled_from(["NULL", ";", "\n"]),
        "quoting": st.just("none"),
    },
)
_changes = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["d", "D", "a--b", "a" * 41, "", "a.b", 1, None]),
        "format": st.sampled_from(["csv", "json", "parquet", "tsv"]),
        "schema": st.one_of(_schemas, _odd),
        "access": st.sampled_from(["read", "write", "readwrite"]),
        "allowedColumns": st.one_of(_lists, _odd),
        "privacy": st.one_of(_floors, _odd),
        "partitionedBy": st.sampled_from(["day", "month", None]),
        "uniqueColumns": st.one_of(_lists, st.none()),
        "csvHeader": st.sampled_from([True, False, "no"]),
        "csvDialect": st.one_of(_dialects, st.none()),
        "encryption": st.sampled_from(["CSE", "CPK", "SSE", "none"]),
        "manifest": st.sampled_from(["optional", "required", "pinned", "sometimes", None]),
        "manifestDigest": st.sampled_from(["ab" * 32, "AB" * 32, None]),
        "store": _stores,
    },
)


@settings(max_examples=40)
@given(_changes)
def test_what_passes_is_never_refused_later(changes: Json) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder), BASE | changes)
        try:
            spec = load_dataset_spec(file)
        except InvalidInput as error:
            refusal = error
        else:
            require_usable(spec)
            return
    assert refusal.code in ("DatasetSpecInvalid", "YamlMalformed")
    assert refusal.hint
    assert "validation error" not in refusal.message


def require_usable(spec: DatasetSpec) -> None:
    """Take every step that a published dataset takes until a query reads it, as far as it depends on the file."""
    remarks(spec)
    authorised = PublishDatasetInput(collaboration="c", party="p", owner_id="u", spec=spec, authorisation=spec.digest())
    assert PublishDatasetInput.model_validate_json(authorised.model_dump_json()) == authorised
    require_prefix(spec.store.subdirectory)
    if spec.manifest == "pinned" and spec.manifest_digest is None:
        spec = DatasetSpec.model_validate(spec.model_dump() | {"manifest_digest": "0" * 64})
    profile = Settings.model_validate({"collaboration": "c", "s3": {"endpoint_url": "https://s3.invalid"}})
    if isinstance(spec.store, S3StoreSpec):
        with pytest.raises(CleanRoomError) as missing:
            read_secret_reference(spec.store.connection_secret, profile)
        assert missing.value.code in ("SecretFileNotFound", "SecretVariableNotSet")
    descriptor = generate_descriptor(request_of(spec))
    document = parse_dataset(descriptor.data, document_id=spec.name)
    if isinstance(spec.store, S3StoreSpec):
        verify_descriptor_matches_spec(descriptor.data, spec, profile, "u", None)
    assert document.dataset_access_point.protection.encryption_mode() == spec.encryption
    arrow_schema(document.dataset_schema.types())
    policy = document.dataset_access_policy
    view = view_of(
        "v", document.dataset_schema.types(), policy.allowed_fields, policy.privacy_floors, "u", document.dataset_schema.unique_columns
    )
    assert Catalog(views=(view,)).view("v") is not None


def request_of(spec: DatasetSpec) -> DescriptorRequest:
    common = {"collaboration": "c", "owner_id": "u", "spec": spec, "store_url": "https://s3.invalid"}
    if isinstance(spec.store, BlobStoreSpec):
        return DescriptorRequest(
            **common,
            identity=ManagedIdentity(name="i", client_id="c", tenant_id="t", principal_id="p", resource_id="r"),
            clean_room=CleanRoomIdentity(issuer_url="https://issuer", subject="s", audience="a"),
            encryption_key=EncryptionKey(key_name="k", key_id="id", key_vault_url="https://v", authority="https://m", wrapped_key="w"),
        )
    kinds = ("connection", "key")
    stored = tuple(StoredSecret(kind=kind, secret_id=user_secret_id("u", user_secret_name(spec.name, kind))) for kind in kinds)
    return DescriptorRequest(**common, region=Settings.model_validate({"collaboration": "c"}).s3.region, secrets=stored)


# ------------------------------------------------------------------ whatever fails

WRONG: list[tuple[str, Json | str, str, str, str]] = [
    (
        "identity",
        {"privacy": {"minGroupSize": 5, "identity": "who"}},
        "DatasetSpecInvalid",
        "privacy.identity: no such columns",
        "who",
    ),
    ("case", {"schema": {"a": "long", "A": "long"}}, "DatasetSpecInvalid", "unique, ignoring case", "A, a"),
    ("ascii", {"schema": {"größe": "long"}}, "DatasetSpecInvalid", "printable ASCII", "größe"),
    ("reserved", {"schema": {"__cr_x": "long"}}, "DatasetSpecInvalid", "reserved", "__cr_x"),
    ("columns", {"schema": {f"c{n}": "long" for n in range(MAX_COLUMNS + 1)}}, "DatasetSpecInvalid", "schema has 501", "maximum is 500"),
    ("type", {"schema": {"a": "int"}}, "DatasetSpecInvalid", "schema.a: Input should be 'string'", "not 'int'"),
    ("no", {"privacy": {"minGroupSize": False}}, "DatasetSpecInvalid", "privacy.minGroupSize: Input should be a valid integer", "False"),
    ("text", {"privacy": {"minGroupSize": "20"}}, "DatasetSpecInvalid", "privacy.minGroupSize", "not '20'"),
    ("huge", {"privacy": {"minGroupSize": 2**31, "identity": "city"}}, "DatasetSpecInvalid", "less than or equal", "2147483648"),
    ("twice", {"allowedColumns": ["city", "city"]}, "DatasetSpecInvalid", "allowedColumns names a column twice", "city"),
    ("folder", {"store": {**BLOB, "subdirectory": "/a"}}, "DatasetSpecInvalid", "subdirectory '/a' must be a relative path", "store"),
    ("hyphens", {"store": {"kind": "azure-blob", "container": "a--b"}}, "DatasetSpecInvalid", "two hyphens", "a--b"),
    ("address", {"store": {**BASE["store"], "bucket": "10.1.2.3"}}, "DatasetSpecInvalid", "IP address", "10.1.2.3"),
    ("member", {"privcy": {}}, "DatasetSpecInvalid", "privcy: no such member", "did you mean privacy?"),
    ("kind", {"store": {"kind": "gcs"}}, "DatasetSpecInvalid", "'gcs'", "'azure-blob', 'aws-s3'"),
    ("list", "- a\n- b\n", "YamlMalformed", "a list, not a mapping", "Known members: name"),
    ("word", "hello\n", "YamlMalformed", "a text, not a mapping", "Known members: name"),
    ("tabs", "name: d\n\tformat: csv\n", "YamlMalformed", "line 2", "spaces, not with tabs"),
    ("alias", "name: &n [*n]\n", "DatasetSpecInvalid", "name: Input should be a valid string", "is missing"),
    ("keys", "schema: {on: string, 1: long}\n", "DatasetSpecInvalid", "schema", "quotes"),
    (
        "surrogate",
        'store: {kind: azure-blob, container: abc, subdirectory: "\\ud800"}\n',
        "YamlMalformed",
        "line 1, column 57",
        "surrogate",
    ),
]
"""What is wrong, the changed members or the whole text, the code, and two parts of message and hint."""


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of an owner on a machine where every effect is an error of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("CLEANROOM_PROFILE", raising=False)
    lines = ["[default]", 'collaboration = "flights"', 'keys_dir = "keys"', "[default.parties]", 'litware = "user-1"']
    text = "\n".join([*lines, "[profile.litware]", 'party = "litware"', ""])
    (tmp_path / "cleanroom.toml").write_text(text)
    monkeypatch.setenv("CLEANROOM_CONFIG", str(tmp_path / "cleanroom.toml"))
    (tmp_path / "rows.csv").write_text("person,city,amount\n")

    def effect(*args: object, **options: object) -> object:
        raise AssertionError("an effect of a file that is wrong")

    for target in ("cleanroom.clients.owned.open_store", "cleanroom.datasets.keystore.KeyStore.get_or_create"):
        monkeypatch.setattr(target, effect)
    for target in ("temporal", "authorise", "governance"):
        monkeypatch.setattr(f"starters.operations.session.Session.{target}", effect)
    return tmp_path


@pytest.mark.parametrize(("change", "code", "first", "second"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
@pytest.mark.parametrize("words", ["check FILE", "upload FILE rows.csv --profile litware", "publish FILE --plaintext --profile litware"])
def test_what_fails_has_no_effect(words: str, change: Json | str, code: str, first: str, second: str, profile: Path) -> None:
    file = written(profile, change if isinstance(change, str) else BASE | change)
    done = runner.invoke(app, ["dataset", *words.replace("FILE", str(file)).split(), "--output", "json"])
    error = json.loads(done.stdout)
    assert (error["code"], done.exit_code) == (code, 2), error
    assert first in error["message"]
    assert second in error["message"] + error["hint"]
    assert not (profile / "keys").exists()


@pytest.mark.parametrize("words", ["check FILE", "upload FILE rows.csv --profile litware", "publish FILE --profile litware"])
@pytest.mark.parametrize(
    ("make", "code", "exit_code"),
    [
        (lambda file: None, "FileNotFound", 3),
        (lambda file: file.mkdir(), "FileUnreadable", 2),
        (lambda file: file.write_bytes(b"name: \xe9\n"), "FileUnreadable", 2),
        (lambda file: file.write_bytes("name: d\n".encode("utf-16")), "FileUnreadable", 2),
        (lambda file: file.write_bytes(b"PAR1\x00\x15\x04\xff"), "FileUnreadable", 2),
        (lambda file: file.write_bytes(b""), "YamlMalformed", 2),
        (lambda file: file.symlink_to("/dev/zero"), "FileTooLarge", 2),
        (lambda file: file.symlink_to(file), "FileUnreadable", 2),
    ],
    ids=["missing", "folder", "latin", "utf-16", "binary", "empty", "endless", "loop"],
)
def test_a_file_that_cannot_be_read_is_an_error_with_a_remedy(
    words: str, make: Callable[[Path], object], code: str, exit_code: int, profile: Path
) -> None:
    file = profile / "odd.yaml"
    make(file)
    done = runner.invoke(app, ["dataset", *words.replace("FILE", str(file)).split(), "--output", "json"])
    error = json.loads(done.stdout)
    assert (error["code"], done.exit_code, bool(error["hint"])) == (code, exit_code, True), error


def test_all_problems_are_reported_at_once_with_their_values(tmp_path: Path) -> None:
    members = BASE | {
        "allowedColumns": ["citty"],
        "privacy": {"minGroupSize": 5, "identity": "Person", "measures": ["sum"]},
        "manifest": "pinned",
        "encryption": "SSE",
    }
    with pytest.raises(InvalidInput) as wrong:
        load_dataset_spec(written(tmp_path, members))
    for part in ("allowedColumns: no such columns in the schema: citty", "privacy.identity", "the schema has 'person'"):
        assert part in wrong.value.message
    for part in ("privacy.measures: no such columns in the schema: sum", "manifest: pinned needs access: read and encryption: CSE"):
        assert part in wrong.value.message


@pytest.mark.parametrize("value", ["AKIAIOSFODNN7EXAMPLE/wJalrXUtnFEMI", "env:HUNTER2", 12345678901])
def test_a_secret_in_the_file_is_not_repeated(value: object, tmp_path: Path) -> None:
    store = {"kind": "aws-s3", "bucket": "litware", "connectionSecret": value}
    with pytest.raises(InvalidInput) as wrong:
        load_dataset_spec(written(tmp_path, BASE | {"store": store}))
    assert str(value).removeprefix("env:") not in str(wrong.value.to_dict())
    assert "connectionSecret" in wrong.value.message


def test_a_file_with_a_byte_order_mark_is_valid(tmp_path: Path) -> None:
    file = written(tmp_path, BASE)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    done = runner.invoke(app, ["dataset", "check", str(file), "--output", "json"])
    assert (done.exit_code, json.loads(done.stdout)["dataset"]) == (0, "d")


@pytest.mark.parametrize(
    ("members", "remark"),
    [
        ({}, "minGroupSize is 0"),
        ({"privacy": {"minGroupSize": 5, "identity": "person"}, "allowedColumns": ["city"]}, "queries cannot join on it"),
        ({"privacy": {"dimensions": ["person"], "minGroupSize": 5, "identity": "person"}}, "because it is the identity"),
        ({"privacy": {"dimensions": ["city"]}, "allowedColumns": ["person"]}, "queries cannot read city"),
        ({"privacy": {"maxSharePercent": 50}}, "maxSharePercent has no effect"),
        ({"manifest": "optional"}, "add or remove objects unnoticed"),
        ({"access": "write", "privacy": {"dimensions": ["city"]}}, "no effect on an output dataset"),
        ({"access": "write", "uniqueColumns": ["city"]}, "uniqueColumns has no effect"),
        ({"access": "write", "partitionedBy": "day"}, "partitionedBy has no effect"),
    ],
)
def test_rules_without_effect_are_remarked(members: Json, remark: str, tmp_path: Path) -> None:
    done = runner.invoke(app, ["dataset", "check", str(written(tmp_path, BASE | members)), "--output", "json"])
    assert any(remark in text for text in json.loads(done.stdout)["remarks"]), done.stdout


@pytest.mark.parametrize("names", [("identity", "dimensions"), ("identityColumn", "allowedOutputColumns")], ids="/".join)
@pytest.mark.parametrize(
    ("privacy", "other", "message"),
    [
        ({"I": "who"}, {}, "privacy.I: no such columns"),
        ({"I": 5}, {}, "privacy.I: Input should be a valid string"),
        ({"D": ["who"]}, {}, "privacy.D: no such columns"),
        ({"D": ["city", "city"]}, {}, "privacy.D names a column twice"),
        ({"D": "city"}, {}, "privacy.D: Input should be a valid"),
        ({"D": [5]}, {}, "privacy.D.0: Input should be a valid string"),
        ({"minGroupSize": 5, "I": "person"}, {"allowedColumns": ["city"]}, "privacy.I person is not in allowedColumns"),
        ({"D": ["city"]}, {"allowedColumns": ["person"]}, "privacy.D: queries cannot read"),
        ({"minGroupSize": 5, "I": "person", "D": ["person"]}, {}, "privacy.D: no result contains person"),
    ],
)
def test_messages_name_the_member_as_the_file_does(
    names: tuple[str, str], privacy: Json, other: Json, message: str, tmp_path: Path
) -> None:
    identity, dimensions = names
    spelled = {{"I": identity, "D": dimensions}.get(member, member): value for member, value in privacy.items()}
    done = runner.invoke(app, ["dataset", "check", str(written(tmp_path, BASE | {"privacy": spelled} | other)), "--output", "json"])
    expected = message.replace("privacy.I", f"privacy.{identity}").replace("privacy.D", f"privacy.{dimensions}")
    assert expected in done.stdout
    assert not [name for name in ("identityColumn", "allowedOutputColumns") if name in done.stdout and name not in names]


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        ("dataset check", "fabrikam-delays", "is the file of a query, and this command reads that of a dataset."),
        ("query check", "litware-delays", "is the file of a dataset, and this command reads that of a query."),
    ],
)
def test_a_file_of_the_other_kind_is_named(words: str, name: str, message: str) -> None:
    file = Path(__file__).parents[2] / f"demo/{name}.yaml"
    done = CliRunner().invoke(app, [*words.split(), str(file), "--output", "json"])
    error = json.loads(done.stdout)
    assert (done.exit_code, error["message"]) == (2, f"{file}: {message}")
