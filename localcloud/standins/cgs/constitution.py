"""Governance by the consortium: proposals, ballots, resolution rules and actions.

In the original this is CCF governance with COSE-signed messages (docs/facts/governance-service.md#contracts-and-the-consortium); here
a member's token identifies it. The rules are the same: when a proposal is accepted or rejected, and what an accepted action writes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localcloud.standins.cgs import policies as cgs_policies
from localcloud.standins.cgs.attested import contract_policy_table
from localcloud.standins.cgs.auth import IDENTITIES
from localcloud.standins.cgs.callers import MemberConfig
from localcloud.standins.cgs.contracts import (
    ACCEPTED_CONTRACTS,
    DEPLOYMENT_INFOS,
    DEPLOYMENT_SPECS,
    MEMBER_ACCEPTED,
    SERVICE_OPTIONS,
    SERVICE_OPTIONS_TABLE,
    switch_table,
)
from localcloud.standins.cgs.governance_store import PROPOSALS, PROPOSALS_INFO, open_actions
from localcloud.standins.cgs.http import Fault
from localcloud.standins.cgs.javascript import Crash, member
from localcloud.standins.cgs.oidc import ISSUER
from localcloud.standins.cgs.store import Tx
from localcloud.standins.cgs.users import FINALIZED, INVITATIONS, INVITATIONS_INFO, invitation_claims_table

_INVITATION_CLAIMS = frozenset({"preferred_username", "email", "appid", "tid", "sub", "upn"})


@dataclass(frozen=True)
class Accepted:
    """An accepted proposal whose actions are applied."""

    proposal_id: str
    votes: Mapping[str, bool]


def _text(args: Any, name: str) -> str:
    value = member(args, name)
    if not isinstance(value, str) or not value:
        raise Crash(f"{name} must be a non-empty string")
    return value


def _object(args: Any, name: str) -> dict[str, Any]:
    value = member(args, name)
    if not isinstance(value, dict):
        raise Crash(f"{name} must be an object")
    return value


def _accepted_contract(tx: Tx, args: Any) -> str:
    contract_id = _text(args, "contractId")
    if not tx.has(ACCEPTED_CONTRACTS, contract_id):
        raise Crash(f"contract {contract_id} is not accepted")
    return contract_id


class Action:
    """A governance action: ``validate`` runs when it is proposed and raises :class:`Crash`; ``apply`` runs when it is accepted."""

    def __init__(self, validate: Callable[[Tx, Any], Any], apply: Callable[[Tx, Any, Accepted], None]) -> None:
        self.validate, self.apply = validate, apply


def _set_contract(tx: Tx, args: Any, accepted: Accepted) -> None:
    item = {"data": args["contract"].get("data"), "proposalId": accepted.proposal_id, "finalVotes": dict(accepted.votes)}
    tx.put(ACCEPTED_CONTRACTS, args["contractId"], item)


def _set_member_document(tx: Tx, args: Any, accepted: Accepted) -> None:
    document = args["document"]
    item = {"contractId": document.get("contractId"), "data": document.get("data"), "proposalId": accepted.proposal_id}
    tx.put(MEMBER_ACCEPTED, args["documentId"], {**item, "finalVotes": dict(accepted.votes)})


def _check_policy(tx: Tx, args: Any) -> None:
    _accepted_contract(tx, args)
    cgs_policies.validate(args, jwt_allowed=True)


def _set_policy(tx: Tx, args: Any, accepted: Accepted) -> None:
    cgs_policies.merge(tx, contract_policy_table(args["contractId"]), args["type"], args["claims"])


def _enable_oidc(tx: Tx, args: Any, accepted: Accepted) -> None:
    if tx.get(ISSUER, "issuer") is None:
        tx.put(ISSUER, "issuer", {"enabled": True, "requestId": "1", "kid": args["kid"]})


def _rotate_oidc(tx: Tx, args: Any, accepted: Accepted) -> None:
    issuer = tx.get(ISSUER, "issuer")
    if issuer is None:
        raise Crash("the OIDC issuer is not enabled")
    tx.put(ISSUER, "issuer", {**issuer, "requestId": str(int(issuer["requestId"]) + 1)})


def _check_identity(tx: Tx, args: Any) -> None:
    if not isinstance(member(args, "id"), str):
        raise Crash("id is not a string")
    if _text(args, "accountType") != "microsoft":
        raise Crash("accountType must be microsoft")
    _text(_object(args, "data"), "tenantId")


def _set_identity(tx: Tx, args: Any, accepted: Accepted) -> None:
    item = {"accountType": args["accountType"], "data": args["data"]}
    if args.get("invitationId"):
        item["invitationId"] = args["invitationId"]
        tx.put(FINALIZED, args["invitationId"], {"userId": args["id"]})
    tx.put(IDENTITIES, args["id"], item)


def _remove_identity(tx: Tx, args: Any, accepted: Accepted) -> None:
    tx.delete(IDENTITIES, args["id"])


def _check_invitation(tx: Tx, args: Any) -> None:
    key = _text(args, "invitationId")
    if tx.has(FINALIZED, key):
        raise Crash(f"invitation {key} is finalized")
    if _text(args, "accountType") != "microsoft" or member(args, "type") not in ("add", "remove"):
        raise Crash("accountType must be microsoft and type add or remove")
    for name in _object(args, "claims"):
        if name not in _INVITATION_CLAIMS:
            raise Crash(f"claim {name} is not allowed in an invitation")


def _set_invitation(tx: Tx, args: Any, accepted: Accepted) -> None:
    cgs_policies.merge(tx, invitation_claims_table(args["invitationId"]), args["type"], args["claims"])
    tx.put(INVITATIONS, args["invitationId"], {"accountType": args["accountType"]})


def _remove_invitation(tx: Tx, args: Any, accepted: Accepted) -> None:
    for name in tx.keys(invitation_claims_table(args["invitationId"])):
        tx.delete(invitation_claims_table(args["invitationId"]), name)
    tx.delete(INVITATIONS, args["invitationId"])
    tx.delete(INVITATIONS_INFO, args["invitationId"])


def _check_service_option(tx: Tx, args: Any) -> None:
    if _text(args, "option") not in SERVICE_OPTIONS or member(args, "status") not in ("enabled", "disabled"):
        raise Crash("option or status is not known")


def _deployment(table: str, field: str) -> Action:
    def check(tx: Tx, args: Any) -> None:
        _accepted_contract(tx, args)
        _object(_object(args, field), "data")

    return Action(check, lambda tx, args, accepted: tx.put(table, args["contractId"], args[field]["data"]))


def _switch(option: str, state: str) -> Action:
    return Action(_accepted_contract, lambda tx, args, accepted: tx.put(switch_table(option), args["contractId"], state))


ACTIONS: dict[str, Action] = {
    "set_contract": Action(lambda tx, args: (_text(args, "contractId"), _object(args, "contract")), _set_contract),
    "set_member_document": Action(lambda tx, args: (_text(args, "documentId"), _object(args, "document")), _set_member_document),
    "set_clean_room_policy": Action(_check_policy, _set_policy),
    "set_deployment_spec": _deployment(DEPLOYMENT_SPECS, "spec"),
    "set_deployment_info": _deployment(DEPLOYMENT_INFOS, "info"),
    "enable_oidc_issuer": Action(lambda tx, args: _text(args, "kid"), _enable_oidc),
    "oidc_issuer_enable_rotate_signing_key": Action(lambda tx, args: None, _rotate_oidc),
    "set_oidc_issuer_url": Action(
        lambda tx, args: _text(args, "issuer_url"), lambda tx, args, accepted: tx.put(ISSUER, "url", args["issuer_url"])
    ),
    "set_user_identity": Action(_check_identity, _set_identity),
    "remove_user_identity": Action(lambda tx, args: _text(args, "id"), _remove_identity),
    "set_user_invitation_by_jwt_claims": Action(_check_invitation, _set_invitation),
    "remove_user_invitation_by_jwt_claims": Action(lambda tx, args: _text(args, "invitationId"), _remove_invitation),
    "set_cgs_runtime_options": Action(
        _check_service_option, lambda tx, args, accepted: tx.put(SERVICE_OPTIONS_TABLE, args["option"], args["status"])
    ),
    **{
        f"set_contract_runtime_options_{verb}_{option}": _switch(option, f"{verb}d")
        for verb in ("enable", "disable")
        for option in ("logging", "telemetry")
    },
}
_VETOABLE = frozenset(
    {"set_contract", "set_clean_room_policy", "set_deployment_spec", "set_deployment_info", "set_member_document"}
    | {f"set_contract_runtime_options_enable_{option}" for option in ("logging", "telemetry")}
)
_NO_VOTES = frozenset(f"set_contract_runtime_options_disable_{option}" for option in ("logging", "telemetry"))
_AUTO_APPROVE = {
    "set_deployment_spec": "autoapprove-deploymentspec-proposal",
    "set_deployment_info": "autoapprove-deploymentinfo-proposal",
    "set_clean_room_policy": "autoapprove-cleanroompolicy-proposal",
}


def is_regular(candidate: MemberConfig) -> bool:
    """Whether a member is neither an operator nor a recovery operator and has no CGS role (the *string* ``"true"``)."""
    data = candidate.member_data or {}
    roles = data.get("cgsRoles") or {}
    operator = data.get("isOperator") is True or data.get("isRecoveryOperator") is True
    return not operator and "true" not in (roles.get("cgsOperator"), roles.get("contractOperator"))


class Constitution:
    """The decisions of the consortium's members."""

    def __init__(self, members: Sequence[MemberConfig]) -> None:
        self.members = list(members)

    def create(self, tx: Tx, proposer: MemberConfig, actions: Any) -> dict[str, Any]:
        """Create a proposal and resolve it once without votes, like CCF."""
        if isinstance(actions, list) and None in actions:
            raise Crash("an action is null")
        try:
            if not isinstance(actions, list) or not actions:
                raise Crash("actions must be a non-empty array")
            for action in actions:
                name = member(action, "name")
                if not isinstance(name, str) or name not in ACTIONS:
                    raise Crash(f"{name!r} is not an action")
                action.setdefault("args", {})
                ACTIONS[name].validate(tx, _object(action, "args"))
        except Crash as error:
            raise Fault(400, "ProposalFailedToValidate", f"The proposal is not valid: {error}.") from error
        proposal_id = secrets.token_hex(32)
        tx.put(PROPOSALS, proposal_id, {"actions": actions})
        info = {"proposerId": proposer.id, "state": "Open", "ballots": {}}
        tx.put(PROPOSALS_INFO, proposal_id, info, history=True)
        return self._settle(tx, proposal_id, info)

    def vote(self, tx: Tx, voter: MemberConfig, proposal_id: str, yes: bool) -> dict[str, Any]:
        """Cast a ballot. Repeating it is idempotent; another vote is ``VoteAlreadyExists``."""
        info = self._info(tx, proposal_id)
        if info["state"] != "Open":
            raise Fault(400, "ProposalNotOpen", f"Proposal {proposal_id} is {info['state']}.")
        cast = info["ballots"].get(voter.id)
        if cast is not None and cast != yes:
            raise Fault(400, "VoteAlreadyExists", f"{voter.id} has voted {cast} on proposal {proposal_id}, and votes are final.")
        info["ballots"][voter.id] = yes
        return self._settle(tx, proposal_id, info)

    def withdraw(self, tx: Tx, proposer: MemberConfig, proposal_id: str) -> dict[str, Any]:
        """Withdraw a proposal. Only its proposer can, while it is open."""
        info = self._info(tx, proposal_id)
        if info["proposerId"] != proposer.id:
            raise Fault(403, "AuthorizationFailed", f"Only {info['proposerId']} can withdraw proposal {proposal_id}.")
        if info["state"] != "Open":
            raise Fault(400, "ProposalNotOpen", f"Proposal {proposal_id} is {info['state']}.")
        return self._close(tx, proposal_id, info, "Withdrawn")

    def show(self, tx: Tx, proposal_id: str) -> dict[str, Any]:
        """Return ``{proposalId, proposerId, proposalState, ballotCount, finalVotes?}``."""
        return _answer(proposal_id, self._info(tx, proposal_id))

    def all(self, tx: Tx) -> list[dict[str, Any]]:
        """Return all proposals that have not been erased."""
        return [_answer(proposal_id, info) for proposal_id, info in tx.items(PROPOSALS_INFO)]

    def _info(self, tx: Tx, proposal_id: str) -> dict[str, Any]:
        info = tx.get(PROPOSALS_INFO, proposal_id)
        if info is None:
            raise Fault(
                404, "ProposalNotFound", f"Proposal {proposal_id} does not exist; a closed proposal is erased when a later one closes."
            )
        return dict(info)

    def _settle(self, tx: Tx, proposal_id: str, info: dict[str, Any]) -> dict[str, Any]:
        actions = tx.get(PROPOSALS, proposal_id)["actions"]
        state = self._resolve(tx, actions, info)
        if state == "Accepted":
            for action in actions:
                ACTIONS[action["name"]].apply(tx, action["args"], Accepted(proposal_id, info["ballots"]))
        if state != "Open":
            return self._close(tx, proposal_id, info, state)
        tx.put(PROPOSALS_INFO, proposal_id, info, history=True)
        return _answer(proposal_id, info)

    def _close(self, tx: Tx, proposal_id: str, info: dict[str, Any], state: str) -> dict[str, Any]:
        info = {**info, "state": state, "finalVotes": info["ballots"]}
        tx.put(PROPOSALS_INFO, proposal_id, info, history=True)
        for other, row in list(tx.items(PROPOSALS_INFO)):
            if other != proposal_id and row["state"] != "Open":
                tx.delete(PROPOSALS, other)
                tx.delete(PROPOSALS_INFO, other)
        return _answer(proposal_id, info)

    def _resolve(self, tx: Tx, actions: list[dict[str, Any]], info: dict[str, Any]) -> str:
        names = {action["name"] for action in actions}
        ballots: dict[str, bool] = info["ballots"]
        if names & _VETOABLE and not all(ballots.values()):
            return "Rejected"
        if _malformed(tx, actions):
            return "Rejected"
        if names <= _NO_VOTES:
            return "Accepted"
        regular = [candidate for candidate in self.members if is_regular(candidate)]
        active = {candidate.id for candidate in regular if candidate.status == "Active"}
        yes = sum(1 for voter, vote in ballots.items() if vote and voter in {candidate.id for candidate in regular})
        waiting = "set_contract" in names and any(candidate.status == "Accepted" for candidate in regular)
        if yes == len(active) and not waiting:
            return "Accepted"
        proposer = next((candidate for candidate in self.members if candidate.id == info["proposerId"]), None)
        roles = ((proposer.member_data if proposer else None) or {}).get("cgsRoles") or {}
        sole = roles.get("contractOperator") == "true"
        if sole and all(name in _AUTO_APPROVE and tx.get(SERVICE_OPTIONS_TABLE, _AUTO_APPROVE[name]) == "enabled" for name in names):
            return "Accepted"
        return "Open"


def _malformed(tx: Tx, actions: list[dict[str, Any]]) -> bool:
    """Whether ``set_contract`` is combined with other actions or repeated, or the same object is already accepted or proposed."""
    for kind, field, table in (("set_contract", "contractId", ACCEPTED_CONTRACTS), ("set_member_document", "documentId", MEMBER_ACCEPTED)):
        keys = [action["args"][field] for action in actions if action["name"] == kind]
        if not keys:
            continue
        if kind == "set_contract" and (len(keys) != len(actions) or len(set(keys)) != len(keys)):
            return True
        everywhere = [args.get(field) for _, args in open_actions(tx, kind)]
        if any(tx.has(table, key) or everywhere.count(key) > 1 for key in keys):
            return True
    return False


def _answer(proposal_id: str, info: Mapping[str, Any]) -> dict[str, Any]:
    head = {
        "proposalId": proposal_id,
        "proposerId": info["proposerId"],
        "proposalState": info["state"],
        "ballotCount": len(info["ballots"]),
    }
    return {**head, "finalVotes": info["finalVotes"]} if "finalVotes" in info else head
