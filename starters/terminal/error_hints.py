"""Hints for errors of the services.

A service does not know the command line, so its errors come without a hint. This module adds one by error code.
"""

from __future__ import annotations

from typing import Final

from cleanroom.errors import CleanRoomError

_LIST_DOCUMENTS: Final = "List the names with `cleanroom query list` and `cleanroom dataset list`."
HINTS: Final = {
    "AuthenticationFailed": "Set the credential of the profile in cleanroom.toml, or log in, for example with `az login`.",
    "BallotAlreadySubmitted": "A ballot is final. To vote again, withdraw the proposal and propose it again.",
    "CodecTlsIncomplete": "Give both --tls-cert and --tls-key.",
    "CodecTlsRequired": "Set --tls-cert and --tls-key, or listen on a loopback address.",
    "ConfigMalformed": "Correct the file at the given place.",
    "ContractNotFound": "Run `cleanroom collaboration show` without a name to see the collaboration of your settings.",
    "ContractIdMismatch": f"The document belongs to another collaboration. {_LIST_DOCUMENTS}",
    "FileNotFound": "Check the path.",
    "FileTooLong": "Check that this is the right file.",
    "FileUnreadable": "Name a regular file that you have permission to read.",
    "GovernanceUnreachable": "Check governance.url in cleanroom.toml. On one machine, list the services with `cleanroom ps`.",
    "InvalidDateFormat": "Give days that exist as yyyy-MM-dd, for example 2013-01-31.",
    "InvalidDateRange": "Give both --start-date and --end-date as yyyy-MM-dd. The start must not be after the end.",
    "KeyVaultUnreachable": "Check azure.key_vault_url in cleanroom.toml, and the network.",
    "NotProposalApprover": "Only owners of the query's datasets vote on it. `cleanroom query show NAME` lists them.",
    "NotProposalOwner": "Only its proposer can withdraw it. An owner of a dataset can reject it: `cleanroom query reject NAME`.",
    "NotUserDocumentApprover": "Only its approvers can give or withdraw consent.",
    "ParametersNotApproved": "Start the run without dates, or add `parameters` to the query's file and have it approved again.",
    "QueryNotProposed": "Check its state with `cleanroom query show NAME`. Its author proposes it with `cleanroom query propose NAME`.",
    "ResourceGroupNotFound": "Set azure.subscription_id and azure.resource_group to the group of the managed identities.",
    "S3Unreachable": "Check the endpoint in the dataset's file and in cleanroom.toml. On one machine, see `cleanroom ps`.",
    "SecretEmpty": "Pass the secret on standard input or in a file.",
    "SecretVariableNotSet": "Set the environment variable, then start the process again.",
    "TlsFileNotFound": "Check the path.",
    "TokenClaimMismatch": "The invitation is for another user. Use that user's profile, or ask a member for an invitation.",
    "TokenClaimMissing": "The token lacks a claim that the invitation requires. Ask a member for an invitation with other claims.",
    "UserDocumentAlreadyAccepted": "An accepted document never changes. Propose a query again with `cleanroom query renew NAME`.",
    "UserDocumentNotAccepted": f"Not every owner has approved it. {_LIST_DOCUMENTS}",
    "UserDocumentNotFound": _LIST_DOCUMENTS,
}


def add_hint(error: CleanRoomError) -> CleanRoomError:
    """Set the hint of ``error`` by its code, if it has none; return ``error``."""
    error.hint = error.hint or HINTS.get(error.code)
    return error
