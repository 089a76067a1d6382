"""Maps error responses of governance to :mod:`cleanroom.errors`.

The service's ``error.code`` is kept, and this module assigns the category. The codes are in
docs/facts/governance-service.md#error-codes.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import httpx

from cleanroom.errors import CleanRoomError, Conflict, Internal, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from cleanroom.transport import retry_after_seconds

_PARTY: Final = "governance operator"
WRONG_SERVICE: Final = "Check the governance URL and its mode (app or cgs-client), and any gateway in between."
"""Hint of errors that another service, or a gateway, causes most often."""
_TEXT: Final = 1000
_SCANNED: Final = 100_000
"""An error keeps ``_TEXT`` characters of the service's text, after ``_SCANNED`` characters were searched for secrets."""
_MIN_SECRET: Final = 4
"""Replacing shorter texts would destroy ordinary words."""
CATEGORY_BY_CODE: Final[Mapping[str, type[CleanRoomError]]] = {
    **dict.fromkeys(("VerifySnpAttestationFailed", "VerifyJwtAttestationFailed", "ReportDataMismatch", "SignatureMismatch"), Refused),
    **dict.fromkeys(("OidClaimMissing", "AuthorizationFailed"), Refused),
    **dict.fromkeys(("ContractNotAccepted", "UserDocumentNotAccepted", "ApproversNotFound", "NoTenantId"), PreconditionFailed),
    **dict.fromkeys(("OidcIssuerNotEnabled", "SigningNotEnabled", "CANotEnabled"), PreconditionFailed),
    **dict.fromkeys(("SigningKeyNotAvailable", "IssuerUrlNotSet", "NoCASigningKey", "InvitationNotAccepted"), PreconditionFailed),
    **dict.fromkeys(("UserDocumentNotProposed", "ContractNotProposed", "DocumentNotProposed"), PreconditionFailed),
    **dict.fromkeys(("ContractAlreadyAccepted", "DocumentAlreadyAccepted", "UserDocumentAlreadyAccepted"), Conflict),
    **dict.fromkeys(("UserDocumentModified", "ContractModified", "DocumentModified", "ProposalIdMismatch"), Conflict),
    **dict.fromkeys(("ProposalNotOpen", "VoteAlreadyExists", "ContractIdMismatch"), Conflict),
    **dict.fromkeys(("ViewNotKnown", "IssuerKeysUnavailable"), Unavailable),
    # A wrong base URL or another service, not a missing document.
    **dict.fromkeys(("ResourceNotFound", "UnsupportedHttpVerb"), InvalidInput),
}
"""Categories of codes whose HTTP status does not tell the category."""
CATEGORY_BY_STATUS: Final[Mapping[int, type[CleanRoomError]]] = {
    400: InvalidInput,
    401: Refused,
    403: Refused,
    409: Conflict,
    # The version changed: a concurrent change won.
    412: Conflict,
    413: InvalidInput,
}
"""Categories of all other codes, except 404 and 5xx."""
_BUSY: Final = frozenset({408, 425, 429, 502, 503, 504})
_PROXY_REFUSALS: Final[Mapping[int, tuple[type[CleanRoomError], str]]] = {
    400: (InvalidInput, "BadRequest"),
    401: (Refused, "InvalidAuthenticationInfo"),
    403: (Refused, "Forbidden"),
}
"""Refusals without ``error.code`` that ``cgs-client`` or a gateway may mean. A web page never does."""
_NO_ANSWER: Final = re.compile(r"(HttpRequest|HttpIO|Socket|IO|Timeout|TaskCanceled|OperationCanceled)Exception")
"""``cgs-client`` answers 500 with the name of a .NET exception. These mean that the application did not answer the proxy."""
_HINTS: Final[Mapping[str, str]] = {
    "CallerNotAuthorized": "A member must register this user (invitation, then set_user_identity).",
    "CallerTenantNotAuthorized": "Sign in to the tenant that the user was registered with.",
    "InvalidAuthenticationInfo": "Check that the token is not expired and that its issuer is registered with the governance service.",
    "PreconditionFailed": "Read the document again and retry with its current version.",
    "UserDocumentAlreadyExists": "Read the document and send its version to update it.",
    "ResourceNotFound": WRONG_SERVICE,
    "VerifySnpAttestationFailed": "Compare the clean room's host data with the contract's clean room policy.",
}


def from_response(response: httpx.Response, operation: str, *, hide: Sequence[str] = ()) -> CleanRoomError:
    """Map a response with an error status.

    Args:
        response: The response.
        operation: Method and path of the request, without the query.
        hide: Secrets of the request, which a gateway may echo.
    """
    status = response.status_code
    code, text = _envelope(response)
    code, text = code and _without(code, hide)[:200], _without(text, hide)[:_TEXT]
    details: dict[str, Any] = {"status": status, "operation": operation}
    if (wait := retry_after_seconds(response.headers.get("retry-after"))) is not None:
        details["retryAfter"] = wait
    if status in _BUSY or (code is None and status >= 500):
        kind: type[CleanRoomError] = Unavailable
        name = code or ("GovernanceThrottled" if status == 429 else "GovernanceUnavailable")
    elif code is None:
        # Not the service's error format: a gateway, or a proxy's validation error. Such a 404 says nothing about a document.
        own = {} if is_page(response) else _PROXY_REFUSALS
        kind, name = own.get(status, (Unavailable, "GovernanceAnswerUnexpected"))
    else:
        name = code
        kind = CATEGORY_BY_CODE.get(code) or CATEGORY_BY_STATUS.get(status) or _by_code_pattern(status, code)
    return kind(
        name,
        f"The governance service answered {status} {name} to {operation}.",
        cause=text,
        hint=_HINTS.get(name),
        party=_PARTY if kind is Unavailable else None,
        details=details,
        # The application has thrown. It does so for some invalid requests, but also when it cannot execute a valid one at that moment.
        retryable=True if kind is Internal and status >= 500 else None,
    )


def _by_code_pattern(status: int, code: str) -> type[CleanRoomError]:
    """Categorize codes of CCF, a proxy or a gateway."""
    if status == 404:
        # CCF answers 404 FrontendNotOpen while a service starts.
        return NotFound if code.endswith("NotFound") else Unavailable
    if status >= 500 and code != "InternalError" and (_NO_ANSWER.fullmatch(code) or not code.endswith("Exception")):
        return Unavailable
    return Internal


def is_page(response: httpx.Response) -> bool:
    """Return whether a response is a web page, which only a proxy or another service sends."""
    return "html" in str(response.headers.get("content-type", "")).lower() or response.content[:100].lstrip().startswith(b"<")


def _envelope(response: httpx.Response) -> tuple[str | None, str]:
    """Return ``(error.code, text)``. The code is ``None`` if the body is not ``{"error": {"code", "message"}}``."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return None, response.text[:_SCANNED]
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str) and error["code"]:
        return error["code"], str(error.get("message") or "")[:_SCANNED]
    return None, response.text[:_SCANNED]


def _without(text: str, secrets: Sequence[str]) -> str:
    # Callers cut the text afterwards, so that no half of a secret is left. A secret may also occur in its JSON spelling.
    for secret in sorted((secret for secret in secrets if len(secret) >= _MIN_SECRET), key=len, reverse=True):
        for form in (secret, json.dumps(secret)[1:-1]):
            text = text.replace(form, "[removed]")
    return text


def from_transport(error: httpx.HTTPError | httpx.InvalidURL, operation: str) -> CleanRoomError:
    """Map a request without a response. The result is never :class:`NotFound`, because nothing is known about the resource."""
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return InvalidInput(
            "GovernanceUrlInvalid", "The governance URL is not an http or https URL.", cause=str(error), hint="Set governance.url."
        )
    chain = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain):
        code, message = "GovernanceCertificateUntrusted", "The governance service's certificate is not trusted."
        return Refused(code, message, cause=str(error), hint="Set the service certificate or the CA file of this governance service.")
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        code, message = "GovernanceNameNotResolved", "The governance service's host name does not resolve."
    elif isinstance(error, httpx.TimeoutException):
        code, message = "GovernanceTimeout", "The governance service did not answer in time."
    elif isinstance(error, httpx.ConnectError):
        code, message = "GovernanceUnreachable", "The connection to the governance service failed."
    else:
        code, message = "GovernanceConnectionLost", "The connection to the governance service broke before it answered."
    # httpx quotes what it refuses to send, which may be a header with a credential.
    cause = "" if isinstance(error, httpx.LocalProtocolError) else str(error)
    cause = cause or type(error).__name__
    return Unavailable(code, f"{message} Operation: {operation}.", cause=cause, party=_PARTY, details={"operation": operation})


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
