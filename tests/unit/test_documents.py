"""Documents in the shape of azure-cleanroom: all members survive a round trip, and invalid documents are refused."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from cleanroom.documents.dataset import parse_dataset
from cleanroom.documents.query import parse_query
from cleanroom.documents.specs import DatasetSpec, QuerySpec
from cleanroom.errors import InvalidInput
from cleanroom.spark.job import JobConfig
from tests.unit.spark_support import make_job

Json = dict[str, Any]


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def identity() -> Json:
    return {
        "name": "globex-mi",
        "clientId": "c",
        "tenantId": "t",
        "tokenIssuer": {
            "issuerType": "FederatedIdentityBasedTokenIssuer",
            "issuer": {"protocol": "AzureAD_Federated", "url": "https://oidc.example/globex", "configuration": ""},
            "federatedIdentity": {
                "name": "cleanroom_cgs_oidc",
                "clientId": "",
                "tenantId": "",
                "tokenIssuer": {
                    "issuerType": "AttestationBasedTokenIssuer",
                    "issuer": {"protocol": "Attested_OIDC", "url": "https://cgs/oidc", "configuration": ""},
                },
            },
        },
    }


def secret(name: str, protocol: str, configuration: str) -> Json:
    provider = {"protocol": protocol, "url": "https://globex-kv.vault.azure.net/", "configuration": configuration}
    resource = {"id": name, "name": name, "type": "AzureKeyVault", "provider": provider}
    return {"name": name, "secret": {"secretType": "Key", "backingResource": resource}}


DATASET: Json = {
    "name": "globex-orders",
    "datasetSchema": {
        "format": "parquet",
        "fields": [{"fieldName": "order_id", "fieldType": "string"}, {"fieldName": "amount", "fieldType": "number"}],
    },
    "datasetAccessPolicy": {"accessMode": "read", "allowedFields": ["order_id"]},
    "datasetAccessPoint": {
        "name": "globex-orders",
        "type": "Volume_ReadOnly",
        "path": "",
        "subdirectory": "2026/q1",
        "store": {
            "id": "orders",
            "name": "orders",
            "type": "Azure_BlobStorage",
            "provider": {"protocol": "Azure_BlobStorage", "url": "https://globexsa.blob.core.windows.net/", "configuration": ""},
        },
        "identity": identity(),
        "protection": {
            "proxyType": "SecureVolume__ReadOnly__Azure__BlobStorage",
            "proxyMode": "Secure",
            "configuration": encoded({"KeyType": "KEK", "EncryptionMode": "CPK"}),
            "encryptionSecretAccessIdentity": identity(),
            "encryptionSecrets": {
                "dek": secret("orders-dek", "AzureKeyVault_Secret", ""),
                "kek": secret("orders-kek", "AzureKeyVault_SecureKey", encoded({"authority": "https://maa.example"})),
            },
        },
    },
}
SEGMENTS: Json = {
    "segments": [
        {
            "executionSequence": 1,
            "data": "CREATE OR REPLACE TEMP VIEW o AS SELECT order_id FROM orders",
            "preConditions": [{"viewName": "orders", "minRowCount": 50}],
            "postFilters": [],
        },
        {
            "executionSequence": 2,
            "data": "SELECT COUNT(*) AS cnt FROM o",
            "preConditions": None,
            "postFilters": [{"columnName": "cnt", "value": 25}],
        },
    ]
}
QUERY: Json = {
    "name": "q-overlap",
    "application": {
        "applicationType": "Spark-SQL",
        "inputDataset": [{"specification": "globex-orders", "view": "orders"}, {"specification": "northwind-clicks", "view": "clicks"}],
        "outputDataset": {"specification": "northwind-out", "view": "out"},
        "query": encoded(SEGMENTS),
    },
}


def within(theirs: Any, ours: Any) -> bool:
    """Whether ``ours`` has every member of ``theirs``, unchanged."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and all(name in ours and within(value, ours[name]) for name, value in theirs.items())
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(within, theirs, ours))
    return bool(theirs == ours)


def test_upstreams_documents_are_read_and_written_with_the_same_members() -> None:
    dataset = parse_dataset(json.dumps(DATASET), document_id="globex-orders")
    assert within(DATASET, json.loads(dataset.to_data()))
    protection = dataset.dataset_access_point.protection
    assert protection.encryption_mode() == "CPK"
    assert protection.encryption_secrets is not None
    assert protection.encryption_secrets.kek is not None
    assert protection.encryption_secrets.kek.secret.backing_resource.provider.decoded() == {"authority": "https://maa.example"}
    query = parse_query(json.dumps(QUERY), document_id="q-overlap")
    assert within(QUERY, json.loads(query.to_data()))
    assert [segment.data for segment in query.application.segments().segments] == [item["data"] for item in SEGMENTS["segments"]]


def put(path: str, value: Any) -> Callable[[Json], None]:
    def change(document: Json) -> None:
        *parents, last = path.split(".")
        target: Any = document
        for part in parents:
            target = target[int(part)] if part.isdigit() else target[part]
        target[last] = value

    return change


FIELDS = "datasetSchema.fields"
POINT = "datasetAccessPoint"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("name", "Globex_Orders", "name"),
        ("name", "globex--orders", "name"),
        ("datasetSchema.format", "orc", "format"),
        (f"{FIELDS}.0.fieldType", "decimal", "fieldType"),
        (FIELDS, [], FIELDS),
        (FIELDS, [{"fieldName": "order_id", "fieldType": "string"}] * 2, "unique"),
        (FIELDS, [{"fieldName": name, "fieldType": "string"} for name in ("order_id", "Order_ID")], "ignoring case"),
        ("datasetAccessPolicy.allowedFields", [], "allowedFields"),
        ("datasetAccessPolicy.allowedFields", ["Order_Id"], "allowedFields: no such columns in the schema: Order_Id"),
        ("datasetAccessPolicy.accessMode", "readwrite", "accessMode"),
        ("datasetAccessPolicy.accessMode", "write", "needs datasetAccessPoint.type 'Volume_ReadWrite'"),
        ("datasetAccessPolicy.privacyFloors", {"minGroupSize": 5}, "identity is required"),
        ("datasetAccessPolicy.privacyFloors", {"minGroupsize": 5}, "minGroupsize"),
        (f"{POINT}.name", "other", "must equal name"),
        (f"{POINT}.type", "Volume", "type"),
        *((f"{POINT}.subdirectory", value, "subdirectory") for value in ("/a", "a/../b", "a//b", "a\\b", ".", "a/")),
        (f"{POINT}.protection", {}, "proxyType"),
        (f"{POINT}.manifest", "sometimes", "manifest"),
        (f"{POINT}.manifest", "pinned", "manifestDigest is required if manifest is 'pinned'"),
        (f"{POINT}.manifestDigest", "ab" * 32, "manifestDigest is required if manifest is 'pinned', and not allowed otherwise"),
    ],
)
def test_a_wrong_dataset_document_is_refused_and_the_member_named(path: str, value: Any, words: str) -> None:
    document = copy.deepcopy(DATASET)
    put(path, value)(document)
    with pytest.raises(InvalidInput, match="DatasetDocumentInvalid") as caught:
        parse_dataset(json.dumps(document), document_id="globex-orders")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("!", "ConfigurationMalformed"),
        (encoded([1]), "ConfigurationMalformed"),
        (encoded({"EncryptionMode": "ROT13"}), "UnsupportedEncryptionMode"),
    ],
)
def test_a_wrong_protection_is_refused(value: str, code: str) -> None:
    document = copy.deepcopy(DATASET)
    put(f"{POINT}.protection.configuration", value)(document)
    with pytest.raises(InvalidInput, match=code):
        parse_dataset(json.dumps(document), document_id="globex-orders").dataset_access_point.protection.encryption_mode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("application.applicationType", "Spark-ML"),
        ("application.inputDataset", []),
        ("application.inputDataset.1.view", "ORDERS"),
        ("application.inputDataset.0.view", "a b"),
        ("application.inputDataset.0.specification", "Globex"),
        ("application.outputDataset", None),
    ],
)
def test_a_wrong_query_document_is_refused(path: str, value: Any) -> None:
    document = copy.deepcopy(QUERY)
    put(path, value)(document)
    with pytest.raises(InvalidInput, match="QueryDocumentInvalid"):
        parse_query(json.dumps(document), document_id="q-overlap")


@pytest.mark.parametrize(
    "segments",
    [
        "not base64!",
        encoded({"segments": []}),
        encoded({"segments": [{"executionSequence": 0, "data": "SELECT 1"}]}),
        encoded({"segments": [{"executionSequence": 1, "data": ""}]}),
        encoded({"segments": [{"executionSequence": 1, "data": "SELECT 1"}] * 2}),
        encoded({"segments": [{"executionSequence": 1, "data": "SELECT 1", "preConditions": [{"viewName": "o", "minRowCount": -1}]}]}),
        encoded({"segments": [{"executionSequence": 1, "data": "SELECT 1", "postFilters": [{"columnName": "cnt", "value": "x"}]}]}),
        encoded({"segments": [{"executionSequence": 1, "data": "x" * (256 * 1024 + 1)}]}),
    ],
)
def test_wrong_segments_are_refused(segments: str) -> None:
    query = parse_query(json.dumps({**QUERY, "application": {**QUERY["application"], "query": segments}}), document_id="q")
    with pytest.raises(InvalidInput, match="InvalidQueryFormat"):
        query.application.segments()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"schema": {"a": "long", "A": "long"}}, "field names must be unique, ignoring case"),
        (
            {"privacy": {"minGroupSize": 3, "identityColumn": "A"}},
            r"identityColumn: no such columns in the schema: A \(the schema has 'a'\)",
        ),
        ({"privacy": {"allowedOutputColumns": ["x"]}}, "allowedOutputColumns: no such columns in the schema: x"),
        ({"allowedColumns": ["A"]}, r"allowedColumns: no such columns in the schema: A \(the schema has 'a'\)"),
        ({"allowedColumns": []}, "allowedColumns must name at least one column"),
        ({"schema": {"": "long"}}, "column .. must have 1 to 128 printable ASCII characters"),
        ({"format": "json", "csvDialect": {}}, "csvDialect needs format: csv"),
        ({"access": "write", "csvDialect": {}}, "csvDialect: results are always written as RFC 4180"),
    ],
)
def test_dataset_file_follows_the_rules_of_the_document(members: dict[str, object], words: str) -> None:
    base = {"name": "d", "format": "csv", "schema": {"a": "long"}, "store": {"kind": "azure-blob", "container": "abc"}}
    with pytest.raises(ValidationError, match=words):
        DatasetSpec.model_validate(base | members)


def test_dataset_with_two_views_is_refused_in_specifications_documents_and_jobs() -> None:
    """The floors would not see that two aggregations are of the same persons."""
    spec = {"name": "q", "inputs": {"a": "orders", "b": "orders"}, "output": "result", "sql": "SELECT 1 AS x"}
    with pytest.raises(ValidationError, match="orders has two views"):
        QuerySpec.model_validate(spec)
    inputs = [{"specification": "orders", "view": view} for view in ("a", "b")]
    query = {**QUERY, "application": {**QUERY["application"], "inputDataset": inputs}}
    with pytest.raises(InvalidInput, match="orders has two views"):
        parse_query(json.dumps(query), document_id="q")
    job = make_job()
    with pytest.raises(InvalidInput, match="has two views"):
        JobConfig.decode(job.model_copy(update={"datasets": (*job.datasets, job.datasets[0])}).encode())
