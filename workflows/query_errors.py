"""The errors with which a query's workflow refuses commands: they name the state that people see, and the command that leads on."""

from __future__ import annotations

from cleanroom.errors import CleanRoomError, PreconditionFailed
from cleanroom.lifecycle.query import CONSENT_WITHDRAWN, next_command, workflow_state
from cleanroom.lifecycle.state import State
from cleanroom.messages.query import QueryStage


class QueryErrors:
    """The state of a query as people see it, and the errors that follow from it."""

    name: str
    stage: QueryStage
    version: str
    refusal: str
    """Of an approved query: the code with which a run would be refused, as far as the workflow knows."""

    @property
    def state(self) -> State:
        """The state that people see."""
        return workflow_state(self.stage, self.refusal)

    def not_draft_error(self, command: str) -> CleanRoomError:
        """Return the error for a command that needs a draft."""
        hints = {
            "Proposed": f"Withdraw the proposal first. `cleanroom query withdraw {self.name} --only-proposal`",
            "Approved": f"An approved query does not change. Propose a new version: `cleanroom query renew {self.name}`, with --file.",
        }
        return PreconditionFailed("QueryNotDraft", f"{command}: the query is {self.state}, not a draft.", hint=hints.get(self.stage))

    def not_proposed_error(self) -> CleanRoomError:
        """Return the error for a vote without an open proposal."""
        return PreconditionFailed(
            "QueryNotProposed",
            f"The query is {self.state}; only a proposed query accepts votes.",
            hint=f"Its author leads on: `{next_command(self.state, self.name)}`." if self.state is not CONSENT_WITHDRAWN else None,
        )

    def not_open_error(self) -> CleanRoomError:
        """Return the error for a withdrawal without a draft or an open proposal."""
        return PreconditionFailed(
            "QueryNotOpen",
            f"The query is {self.state}; there is nothing to withdraw.",
            hint=f"An owner stops an approved query with `cleanroom consent off {self.name}`.",
        )

    def closed_error(self) -> CleanRoomError:
        """Return the error for a command on a closed query."""
        return PreconditionFailed(
            "QueryClosed",
            f"The query is {self.state.word.lower()}; it accepts no more commands.",
            hint=f"Its proposer opens it again: `{next_command(self.state, self.name, held=bool(self.version))}`.",
        )
