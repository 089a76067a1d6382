"""Key Vault's error responses: ``{"error": {"code", "message"[, "innererror": {"code"}]}}``."""

from __future__ import annotations

from typing import Any


class KeyVaultError(Exception):
    """An error response. ``why`` goes to the stand-in's log and never to the caller."""

    def __init__(self, status: int, code: str, message: str, *, inner: str | None = None, why: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner
        self.why = why

    def body(self) -> dict[str, Any]:
        """Return the response body."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.inner is not None:
            error["innererror"] = {"code": self.inner}
        return {"error": error}


def bad_parameter(message: str) -> KeyVaultError:
    """Return 400 BadParameter."""
    return KeyVaultError(400, "BadParameter", message)


def skr(number: int, message: str) -> KeyVaultError:
    """Return 400 for a violated rule of secure key release, with the service's number."""
    return bad_parameter(f"AKV.SKR.{number}: {message}")


def not_found(name: str) -> KeyVaultError:
    """Return 404 KeyNotFound."""
    return KeyVaultError(404, "KeyNotFound", f"A key with (name/id) {name} was not found in this key vault.")


def forbidden(message: str, inner: str, *, why: str | None = None) -> KeyVaultError:
    """Return 403 Forbidden with an inner error code."""
    return KeyVaultError(403, "Forbidden", message, inner=inner, why=why)


def unauthorized(message: str) -> KeyVaultError:
    """Return 401 Unauthorized."""
    return KeyVaultError(401, "Unauthorized", message)


def unavailable(message: str) -> KeyVaultError:
    """Return 503 ServiceUnavailable."""
    return KeyVaultError(503, "ServiceUnavailable", message)


NOT_VERIFIED = "Target environment attestation statement cannot be verified."
NOT_MET = "Target environment attestation does not meet key release policy requirements."
