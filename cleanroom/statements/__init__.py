"""Signed statements of people: decisions on a query, requests to run one, requests to publish.

A bare Temporal signal proves nothing about its sender, so whatever a person decides travels as a compact JWS (RFC 7515) with
EdDSA (RFC 8037) by the key that this person published in governance. See :mod:`cleanroom.statements.model` for the claims.
"""

from cleanroom.statements.keys import KeyDocument, SigningKey, load_or_create_signing_key
from cleanroom.statements.model import Authorisation, Decision, RunRequest
from cleanroom.statements.signing import sign, verify

__all__ = [
    "Authorisation",
    "Decision",
    "KeyDocument",
    "RunRequest",
    "SigningKey",
    "load_or_create_signing_key",
    "sign",
    "verify",
]
