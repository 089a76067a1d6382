"""Documents in governance that store the owners' signed decisions, so that an approval can be verified without Temporal."""

from __future__ import annotations

import json

from cleanroom.errors import InvalidInput

DECISION_LABELS = {"type": "query-decision"}


def decision_document_data(token: str) -> str:
    """Return the document text for a decision's JWS."""
    return json.dumps({"decision": token}, separators=(",", ":"))


def parse_decision_document(data: str) -> str:
    """Return the JWS in a decision document.

    Raises:
        InvalidInput: ``DecisionDocumentInvalid``.
    """
    try:
        token = json.loads(data)["decision"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput("DecisionDocumentInvalid", 'decision document: not of the form {"decision": "<JWS>"}.') from error
    if not isinstance(token, str):
        raise InvalidInput("DecisionDocumentInvalid", "decision document: member decision is not text.")
    return token
