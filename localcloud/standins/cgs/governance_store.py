"""Tables of the consortium's governance proposals, and the queries that the application's routes need."""

from __future__ import annotations

from typing import Any

from localcloud.standins.cgs.store import Tx

PROPOSALS = "public:ccf.gov.proposals"
PROPOSALS_INFO = "public:ccf.gov.proposals_info"


def open_actions(tx: Tx, action_name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the proposal ID and the arguments of each such action in an open proposal."""
    found: list[tuple[str, dict[str, Any]]] = []
    for proposal_id, proposal in tx.items(PROPOSALS):
        rows = [action["args"] for action in proposal["actions"] if action["name"] == action_name]
        if rows and tx.get(PROPOSALS_INFO, proposal_id)["state"] == "Open":
            found.extend((proposal_id, args) for args in rows)
    return found


def open_proposals(tx: Tx, action_name: str, contract_id: str) -> list[str]:
    """Return the IDs of the open proposals with this action for this contract."""
    return [proposal_id for proposal_id, args in open_actions(tx, action_name) if args.get("contractId") == contract_id]
