"""Signed statements of collaborators: decisions on a query, run requests, authorisations, handovers, and the naming of deputies.

A Temporal signal does not authenticate its sender. So a decision of a person is sent as a compact JWS (RFC 7515) with EdDSA (RFC 8037),
signed with the key that this person published in governance. See :mod:`cleanroom.statements.model` for the claims,
and ``docs/facts/key-release.md#signed-statements`` for the format.
"""

from cleanroom.statements.keys import KeyDocument, KeyHistory, SigningKey, load_or_create_signing_key
from cleanroom.statements.model import Authorisation, Decision, Deputation, Handover, RunRequest
from cleanroom.statements.signing import sign, verify

__all__ = [
    "Authorisation",
    "Decision",
    "Deputation",
    "Handover",
    "KeyDocument",
    "KeyHistory",
    "RunRequest",
    "SigningKey",
    "load_or_create_signing_key",
    "sign",
    "verify",
]
