"""Settings of one vault, and the conversion of the SDK's errors: code, class, responsible party and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from pydantic import ValidationError

import cleanroom.keys.vault as module
from cleanroom.azure_http import BoundedRetryPolicy
from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, Refused, Unavailable
from cleanroom.keys import KeyVaultSettings
from cleanroom.keys.vault import convert_error, convert_malformed_responses, service_error
from tests.unit.keys.conftest import StaticCredential, http_response, service_answer

URL = "https://vault.example"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        (URL, URL),
        (f"{URL}/", URL),
        (f"{URL}:8443", f"{URL}:8443"),
        ("http://vault.example", None),
        (f"{URL}/keys", None),
        (f"{URL}?x", None),
        (f"{URL}#x", None),
        ("https://user@vault.example", None),
        ("https://", None),
        ("https://vault .example", None),
        (f"{URL}\n", None),
    ],
)
def test_vault_is_an_https_url_without_a_path(url: str, kept: str | None) -> None:
    if kept is not None:
        assert KeyVaultSettings(vault_url=url).vault_url == kept
        return
    with pytest.raises(ValidationError, match="https://<host>"):
        KeyVaultSettings(vault_url=url)


@pytest.mark.parametrize(
    ("values", "accepted"), [({"timeout": 0}, False), ({"timeout": 0.1}, True), ({"retries": -1}, False), ({"retries": 0}, True)]
)
def test_time_limit_is_positive_and_retries_are_not_negative(values: dict[str, Any], accepted: bool) -> None:
    if accepted:
        assert KeyVaultSettings(vault_url=URL, **values)
        return
    with pytest.raises(ValidationError):
        KeyVaultSettings(vault_url=URL, **values)


def test_key_is_identified_with_and_without_a_version() -> None:
    settings = KeyVaultSettings(vault_url=f"{URL}/")
    assert (settings.key_id("kek"), settings.key_id("kek", "v1")) == (f"{URL}/keys/kek", f"{URL}/keys/kek/v1")


def test_every_setting_reaches_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(module, "KeyClient", lambda *arguments, **options: made.append((arguments, options)))
    credential = StaticCredential("t")
    KeyVaultSettings(vault_url=URL).client(credential)
    KeyVaultSettings(
        vault_url=URL, ca_file=tmp_path, verify_challenge_resource=False, release_ca_file=tmp_path / "x", timeout=7, retries=1
    ).client(credential)
    policies = [options.pop("retry_policy") for _, options in made]
    assert [type(policy) for policy in policies] == [BoundedRetryPolicy] * 2
    assert [policy.total_retries for policy in policies] == [3, 1]
    usual = {"verify_challenge_resource": True, "connection_timeout": 30, "read_timeout": 30, "permit_redirects": False}
    own = {"verify_challenge_resource": False, "connection_timeout": 7, "read_timeout": 7, "permit_redirects": False}
    assert made == [((URL, credential), usual), ((URL, credential), own | {"connection_verify": str(tmp_path)})]


def converted(
    status: int, code: str = "", inner: str | None = None, message: str = "on purpose", party: str | None = None
) -> CleanRoomError:
    return convert_error(service_answer(HttpResponseError, status, code, message, inner), "reading kek")


FORBIDDEN = "Check whether the key is enabled, within its validity, and permits the operation."
RBAC = "Assign a Key Vault crypto role at the vault to the caller; a new assignment can take minutes to take effect."
EXISTS = "Inspect the existing key, then choose another name or delete it."


@pytest.mark.parametrize(
    ("status", "code", "inner", "kind", "expected", "hint"),
    [
        (403, "Forbidden", "ForbiddenByRbac", Refused, "ForbiddenByRbac", RBAC),
        (403, "Forbidden", "KeyDisabled", Refused, "KeyDisabled", FORBIDDEN),
        (403, "Forbidden", None, Refused, "Forbidden", FORBIDDEN),
        (403, "Odd", None, Refused, "Odd", FORBIDDEN),
        (404, "KeyNotFound", None, NotFound, "KeyNotFound", None),
        (404, "SecretNotFound", None, NotFound, "SecretNotFound", None),
        (409, "Conflict", None, Conflict, "Conflict", EXISTS),
        (409, "Odd", None, Conflict, "Odd", EXISTS),
        (409, "Conflict", "Other", Conflict, "Other", EXISTS),
        (400, "BadParameter", None, InvalidInput, "BadParameter", None),
        (412, "Odd", None, InvalidInput, "Odd", None),
        (429, "Throttled", None, Unavailable, "Throttled", None),
        (429, "", None, Unavailable, "KeyVaultUnavailable", None),
        (408, "", None, Unavailable, "KeyVaultUnavailable", None),
        (408, "Slow", None, Unavailable, "Slow", None),
        (500, "", None, Unavailable, "KeyVaultUnavailable", None),
        (503, "Busy", None, Unavailable, "Busy", None),
        (499, "Odd", None, InvalidInput, "Odd", None),
        (300, "", None, Refused, "KeyVaultRedirected", "Check the vault URL and any proxy in between."),
        (399, "", None, Refused, "KeyVaultRedirected", "Check the vault URL and any proxy in between."),
        (400, "Odd", None, InvalidInput, "Odd", None),
    ],
)
def test_status_decides_the_class_and_the_service_the_code(
    status: int, code: str, inner: str | None, kind: type[CleanRoomError], expected: str, hint: str | None
) -> None:
    error = converted(status, code, inner)
    assert (type(error), error.code, error.hint) == (kind, expected, hint)
    assert error.details == {"status": status, "code": code, "innererror": inner}
    assert error.message.startswith("reading kek: ")
    assert error.cause == (None if error.code == "KeyVaultRedirected" else "on purpose")
    assert error.retryable is (kind is Unavailable)


@pytest.mark.parametrize("status", [200, 204, 299, 400, 401, 403, 404, 409, 499])
def test_answer_without_key_vaults_envelope_is_not_key_vaults(status: int) -> None:
    """A proxy's page refuses nothing and denies no key, so it is tried again."""
    kind = ClientAuthenticationError if status == 401 else HttpResponseError
    error = convert_error(kind(message="m" * 300, response=http_response(status, ["page"])), "reading kek")
    assert (type(error), error.code, error.retryable) == (Internal, "KeyVaultAnswerUnexpected", True)
    assert (error.cause, error.details) == ("m" * 200, {"status": status, "code": "", "innererror": None})


def test_name_of_a_deleted_key_has_its_own_remedy() -> None:
    error = converted(409, "Conflict", "ObjectIsDeletedButRecoverable")
    assert error.code == "ObjectIsDeletedButRecoverable"
    assert "az keyvault key recover" in str(error.hint)
    assert "purge" in str(error.hint)


@pytest.mark.parametrize(("status", "named"), [(401, True), (403, True), (409, True), (404, False), (400, False), (500, False)])
def test_responsible_party_is_that_of_a_refusal_or_conflict(status: int, named: bool) -> None:
    kind = ClientAuthenticationError if status == 401 else HttpResponseError
    error = convert_error(service_answer(kind, status, "Odd"), "x", party="key-owner")
    assert error.party == ("key-owner" if named else None)


def test_number_of_a_key_release_rule_is_kept() -> None:
    assert converted(400, "BadParameter", message="AKV.SKR.1020: Immutable").details["skr_code"] == "AKV.SKR.1020"
    assert "skr_code" not in converted(400, "BadParameter", message="AKV.SKR.1: x").details


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("Unauthorized", "AADSTS700016: x", "Unauthorized"),
        # The credential failed before any request to the vault.
        ("", "AADSTS700016: the application was not found", "AADSTS700016"),
        ("", "no token", "KeyVaultAuthenticationFailed"),
    ],
)
def test_rejected_identity_keeps_the_code_of_vault_or_entra(code: str, message: str, expected: str) -> None:
    response = service_answer(ClientAuthenticationError, 401, code, message) if code else ClientAuthenticationError(message=message)
    error = convert_error(response, "x")
    assert (type(error), error.code, error.cause) == (Refused, expected, message)
    assert "audience" in str(error.hint)


def test_identity_without_a_token_has_no_response() -> None:
    error = convert_error(ClientAuthenticationError(message="AADSTS7000215: wrong secret"), "x")
    assert (error.code, error.cause, error.details) == (
        "AADSTS7000215",
        "AADSTS7000215: wrong secret",
        {"status": None, "code": "", "innererror": None},
    )


@pytest.mark.parametrize("kind", [ServiceRequestError, ServiceResponseError])
def test_vault_that_does_not_answer_is_unavailable(kind: type[AzureError]) -> None:
    error = convert_error(kind("refused the connection"), "x")
    assert (type(error), error.code, error.cause) == (Unavailable, "KeyVaultUnreachable", "refused the connection")


def test_other_error_of_the_client_is_internal() -> None:
    error = convert_error(AzureError("odd"), "x")
    assert (type(error), error.code, error.cause) == (Internal, "KeyVaultClientFailed", "odd")
    without = HttpResponseError(message="odd")
    cut = convert_error(without, "x")
    assert (type(cut), cut.code, service_error(without)) == (Unavailable, "KeyVaultUnreachable", ("", None, "odd"))


def test_time_to_wait_is_kept() -> None:
    response = http_response(429, {"error": {"code": "Throttled"}})
    response.headers = {"Retry-After": "7"}
    assert convert_error(HttpResponseError(message="m", response=response), "x").details["retryAfter"] == 7


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"error": {"code": "A", "message": "m", "innererror": {"code": "B"}}}, ("A", "B", "m")),
        ({"error": {"code": "A", "innererror": "B"}}, ("A", None, "")),
        ({"error": {}}, ("", None, "")),
        ({"error": None}, ("", None, "sdk")),
        ({"error": "text"}, ("", None, "sdk")),
        ([], ("", None, "sdk")),
        (ValueError("no JSON"), ("", None, "sdk")),
        (RecursionError(), ("", None, "sdk")),
        (AttributeError(), ("", None, "sdk")),
        (TypeError(), ("", None, "sdk")),
    ],
)
def test_envelope_of_any_shape_is_read(body: Any, found: tuple[str, str | None, str]) -> None:
    assert service_error(HttpResponseError(message="sdk", response=http_response(400, body))) == found


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (ValueError("challenge"), False),
        (UnicodeError("odd"), True),
        (TypeError("odd"), True),
        (AttributeError("odd"), True),
        (KeyError("odd"), True),
        (RecursionError("odd"), True),
    ],
)
def test_malformed_response_is_internal_and_tried_again_unless_the_host_is_wrong(error: Exception, retryable: bool) -> None:
    with pytest.raises(Internal, match="KeyVaultAnswerUnexpected") as caught, convert_malformed_responses("reading kek"):
        raise error
    assert caught.value.retryable is retryable
    assert caught.value.cause == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("error", [ServiceRequestError("x"), DecodeError("x"), Refused("Odd", "x"), OSError("x"), KeyboardInterrupt()])
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, convert_malformed_responses("reading kek"):
        raise error
    assert caught.value is error


def test_cause_of_a_malformed_response_is_cut() -> None:
    with pytest.raises(Internal) as caught, convert_malformed_responses("x"):
        raise TypeError("a" * 300)
    assert caught.value.cause == f"TypeError: {'a' * 200}"
