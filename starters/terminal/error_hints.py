"""What to do about errors of the services, which know nothing of the command line: a hint for each code that comes without one."""

from __future__ import annotations

from typing import Final

from cleanroom.errors import CleanRoomError

_THERE_IS: Final = "`cleanroom query list` and `cleanroom dataset list` show what there is."
_HINTS: Final = {
    "BallotAlreadySubmitted": "A ballot is final; a proposal that was withdrawn and made again is voted on anew.",
    "ContractNotFound": "`cleanroom collaboration show` without a name shows that of the settings.",
    "ContractIdMismatch": f"It belongs to another collaboration. {_THERE_IS}",
    "FileNotFound": "Name a file that exists.",
    "FileTooLong": "Is it the right file?",
    "FileUnreadable": "Name a file that you may read.",
    "GovernanceUnreachable": "Check governance.url in cleanroom.toml; locally, `cleanroom ps` shows what runs.",
    "InvalidDateRange": "Give both --start-date and --end-date (yyyy-MM-dd), the first not after the last.",
    "NotProposalApprover": "The owners of the query's datasets decide on it: `cleanroom query show` names them.",
    "NotProposalOwner": "Who proposed it withdraws it; an owner of its datasets rejects it: `cleanroom query reject`.",
    "NotUserDocumentApprover": "Only those who approved it give or withdraw consent to it.",
    "ParametersNotApproved": "Start it without dates, or have it approved with `parameters` in its file.",
    "QueryNotProposed": "`cleanroom query show` says where it stands; its author proposes it: `cleanroom query propose`.",
    "S3Unreachable": "Check the store's endpoint in the dataset's file or in cleanroom.toml; locally, `cleanroom ps` shows what runs.",
    "SecretEmpty": "Give the secret on standard input or in the file.",
    "SecretSourceMissing": "For example: cleanroom secret set NAME --secret-stdin < FILE",
    "SecretVariableNotSet": "Export the variable first, or use --secret-stdin.",
    "UserDocumentAlreadyAccepted": "What is accepted never changes: give the new one another name.",
    "UserDocumentNotAccepted": f"It has not been approved by all. {_THERE_IS}",
    "UserDocumentNotFound": _THERE_IS,
}


def add_hint(error: CleanRoomError) -> CleanRoomError:
    """``error`` with a hint, where there is one to give."""
    error.hint = error.hint or _HINTS.get(error.code)
    return error
