"""The ``cgs-client`` proxy of the stand-in, under ``/cgs-client`` (docs/facts/governance-service.md#cgs-client).

The original has one configured identity. Here every request must have its own: a user's ``Authorization: Bearer``, or a member's
``x-localcloud-member-token``. Tools that cannot set headers use ``/cgs-client/as/<member token>/...``.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from typing import Any

from localcloud.standins.cgs.callers import MEMBER_HEADER
from localcloud.standins.cgs.constitution import Constitution, is_regular
from localcloud.standins.cgs.engine import Governance
from localcloud.standins.cgs.governance_store import PROPOSALS, PROPOSALS_INFO
from localcloud.standins.cgs.http import MEMBER_OR_USER, Call, Fault, Incoming, Outgoing, Reply, Route, RouteTable, failure
from localcloud.standins.cgs.javascript import Crash
from localcloud.standins.cgs.proxy_session import OPERATIONS, Session, Upstream, at, forward_to
from localcloud.standins.cgs.proxy_users import identity_action, invitation_action
from localcloud.standins.cgs.store import VIEW, Tx

PREFIX = "/cgs-client"
_log = logging.getLogger("localcloud.cgs")

for _method, _path, _upstream, _target, _body in (
    ("GET", "/contracts", "GET", None, False),
    ("PUT", "/contracts/{c}", "PUT", None, True),
    ("GET", "/contracts/{c}", "POST", None, False),
    ("POST", "/contracts/{c}/execution/enable", "POST", "/contracts/{c}/runtimeoptions/execution/enable", False),
    ("POST", "/contracts/{c}/execution/disable", "POST", "/contracts/{c}/runtimeoptions/execution/disable", False),
    ("POST", "/contracts/{c}/checkstatus/{o}", "POST", "/contracts/{c}/runtimeoptions/{o}/status", False),
    ("GET", "/contracts/{c}/secrets", "GET", None, False),
    ("PUT", "/contracts/{c}/secrets/{s}", "PUT", None, True),
    ("GET", "/contracts/{c}/cleanroompolicy", "POST", None, False),
    ("GET", "/contracts/{c}/cleanroompolicy/delegates", "GET", None, False),
    ("GET", "/contracts/{c}/cleanroompolicy/delegates/{t}/{d}", "POST", None, False),
    ("GET", "/contracts/{c}/deploymentspec", "POST", None, False),
    ("GET", "/contracts/{c}/deploymentinfo", "POST", None, False),
    ("GET", "/memberdocuments", "GET", None, False),
    ("GET", "/memberdocuments/{d}", "GET", None, False),
    ("PUT", "/memberdocuments/{d}", "PUT", None, True),
    ("GET", "/userdocuments", "GET", None, False),
    ("GET", "/userdocuments/{d}", "GET", None, False),
    ("PUT", "/userdocuments/{d}", "PUT", None, True),
    ("GET", "/users/proposals/{p}", "POST", None, False),
    ("GET", "/users/proposals/{p}/status", "POST", None, False),
    ("POST", "/users/proposals/{p}/withdraw", "POST", None, False),
    ("GET", "/users", "GET", "/users/identities", False),
    ("GET", "/users/identities", "GET", None, False),
    ("GET", "/users/{u}", "POST", "/users/identities/{u}", False),
    ("GET", "/users/identities/{u}", "POST", None, False),
    ("GET", "/users/invitations", "GET", None, False),
    ("GET", "/users/invitations/{i}", "POST", None, False),
    ("POST", "/users/invitations/{i}/accept", "POST", None, False),
    ("POST", "/oidc/generateSigningKey", "POST", None, False),
    ("POST", "/oidc/setIssuerUrl", "POST", None, True),
    ("GET", "/oidc/issuerInfo", "POST", None, False),
    ("POST", "/runtimeoptions/checkstatus/{o}", "POST", "/runtimeoptions/{o}/status", False),
    ("GET", "/proposals/{p}/historical", "GET", None, False),
):
    forward_to(_method, _path, _upstream, _target, body=_body)


@at("GET", "/ready")
async def _ready(session: Session) -> Outgoing:
    return Outgoing(200, {"status": "up"})


@at("GET", "/show")
async def _show(session: Session) -> Outgoing:
    found = session.governance.auth.member(session.identity.get(MEMBER_HEADER, ""))
    who = {"memberId": found.id, "memberData": found.member_data} if found else {}
    return Outgoing(200, {"ccfEndpoint": "this server", "authMode": "SigningKey" if found else "FromAuthHeader", **who})


@at("POST", "/configure")
async def _configure(session: Session) -> Outgoing:
    # The original keeps this identity for the whole process; here every request has its own.
    return Outgoing(200)


@at("GET", "/node/ready/app", "/node/ready/gov")
async def _node_ready(session: Session) -> Outgoing:
    return Outgoing(204)


@at("GET", "/members")
async def _members(session: Session) -> Outgoing:
    return await session.governance.handle(Incoming("GET", "/gov/service/members"))


@at("GET", "/network/show", "/service/info")
async def _service_info(session: Session) -> Outgoing:
    return await session.governance.handle(Incoming("GET", "/gov/service/info"))


@at("GET", "/contracts/{c}/events")
async def _events(session: Session) -> Outgoing:
    answer = await session.app("GET", f"/contracts/{session.params['c']}/events", None, session.request.query)
    for _ in range(2):
        if answer.status != 202:
            break
        answer = await session.app("GET", f"/contracts/{session.params['c']}/events", None, session.request.query)
    if answer.status == 200 and "nextLink" in answer.body:
        answer.body = {**answer.body, "nextLink": answer.body["nextLink"].removeprefix("/app")}
    return answer


async def _compare(session: Session, method: str, path: str, modified: str) -> dict[str, Any]:
    version = session.need("version", "VersionMissing")
    current = await session.read(method, path)
    if current.get("version") != version:
        raise Fault(400, modified, f"The version is {current.get('version')}, not {version}; read it again.")
    return current


async def _open_proposal(session: Session, method: str, path: str, not_proposed: str) -> str:
    proposal_id = str(session.need("proposalId", "ProposalIdMissing"))
    current = await session.read(method, path)
    if current["state"] != "Proposed" and not (current["state"] == "Accepted" and not_proposed == "UserDocumentNotProposed"):
        raise Fault(400, not_proposed, f"{current['id']} is {current['state']}, not Proposed.")
    if current["proposalId"] != proposal_id:
        raise Fault(400, "ProposalIdMismatch", f"The open proposal is {current['proposalId']}, not {proposal_id}.")
    return proposal_id


@at("POST", "/contracts/{c}/propose")
async def _propose_contract(session: Session) -> Outgoing:
    contract_id = session.params["c"]
    current = await _compare(session, "POST", f"/contracts/{contract_id}", "ContractModified")
    return await session.propose("set_contract", {"contractId": contract_id, "contract": current})


@at("POST", "/memberdocuments/{d}/propose")
async def _propose_member_document(session: Session) -> Outgoing:
    document_id = session.params["d"]
    current = await _compare(session, "GET", f"/memberdocuments/{document_id}", "DocumentModified")
    return await session.propose("set_member_document", {"documentId": document_id, "document": current})


def _script(ballot: Any) -> bool:
    found = re.search(r"return\s+(true|false)", str(ballot))
    if found is None:
        raise Fault(400, "InvalidInput", "The ballot must be a script that returns true or false.")
    return found.group(1) == "true"


def _ballot_of(session: Session) -> Any:
    ballot = session.need("ballot", "BallotKeyMissing")
    if not isinstance(ballot, dict) or "ballot" not in ballot:
        raise Fault(400, "BallotKeyMissing", 'ballot must be an object {"ballot": ...}.')
    return ballot["ballot"]


def _register_member_votes(prefix: str, method: str, not_proposed: str) -> None:
    """Register ``vote_accept``, ``vote_reject`` and ``vote`` of contracts and member documents."""

    async def cast(session: Session, decide: Callable[[Session], bool]) -> Outgoing:
        decision = decide(session)
        proposal_id = await _open_proposal(session, method, prefix.format(**session.params), not_proposed)
        return await session.vote(proposal_id, decision)

    OPERATIONS[("POST", f"{prefix}/vote_accept")] = lambda session: cast(session, lambda _: True)
    OPERATIONS[("POST", f"{prefix}/vote_reject")] = lambda session: cast(session, lambda _: False)
    OPERATIONS[("POST", f"{prefix}/vote")] = lambda session: cast(session, lambda s: _script(_ballot_of(s)))


_register_member_votes("/contracts/{c}", "POST", "ContractNotProposed")
_register_member_votes("/memberdocuments/{d}", "GET", "DocumentNotProposed")


@at("POST", "/contracts/{c}/cleanroompolicy/propose")
async def _propose_policy(session: Session) -> Outgoing:
    session.need("type", "TypeMissing")
    session.need("claims", "ClaimsMissing")
    return await session.propose("set_clean_room_policy", {"contractId": session.params["c"], **session.body()})


@at("POST", "/contracts/{c}/deploymentspec/propose")
async def _propose_spec(session: Session) -> Outgoing:
    return await session.propose("set_deployment_spec", {"contractId": session.params["c"], "spec": {"data": session.body()}})


@at("POST", "/contracts/{c}/deploymentinfo/propose")
async def _propose_info(session: Session) -> Outgoing:
    return await session.propose("set_deployment_info", {"contractId": session.params["c"], "info": {"data": session.body()}})


def _register_switch(option: str, verb: str) -> None:
    async def propose(session: Session) -> Outgoing:
        return await session.propose(f"set_contract_runtime_options_{verb}_{option}", {"contractId": session.params["c"]})

    OPERATIONS[("POST", f"/contracts/{{c}}/{option}/propose-{verb}")] = propose


for _option in ("logging", "telemetry"):
    for _verb in ("enable", "disable"):
        _register_switch(_option, _verb)


@at("POST", "/runtimeoptions/{o}/{action}")
async def _propose_service_option(session: Session) -> Outgoing:
    states = {"propose-enable": "enabled", "propose-disable": "disabled"}
    if session.params["action"] not in states:
        raise Fault(400, "InvalidActionValue", "Use propose-enable or propose-disable.")
    state = states[session.params["action"]]
    return await session.propose("set_cgs_runtime_options", {"option": session.params["o"], "status": state})


@at("POST", "/userdocuments/{d}/propose")
async def _propose_document(session: Session) -> Outgoing:
    document_id = session.params["d"]
    current = await _compare(session, "GET", f"/userdocuments/{document_id}", "UserDocumentModified")
    return await _create_user_proposal(session, {"documentId": document_id, "document": current}, current.get("approvers"))


async def _create_user_proposal(session: Session, args: Any, approvers: Any, name: Any = "set_user_document") -> Outgoing:
    if not approvers:
        regular = [m for m in session.constitution.members if is_regular(m) and m.status == "Active"]
        approvers = [{"approverId": candidate.id, "approverIdType": "member"} for candidate in regular]
    body = {"name": name, "args": args, "approvers": approvers}
    return await session.app("PUT", f"/users/proposals/{uuid.uuid4().hex}", body)


@at("POST", "/users/proposals/create")
async def _create_proposal(session: Session) -> Outgoing:
    body = session.body()
    return await _create_user_proposal(session, body.get("args"), body.get("approvers"), body.get("name"))


def _register_user_votes(path: str, ballot: str) -> None:
    async def on_document(session: Session) -> Outgoing:
        target = f"/userdocuments/{session.params['d']}"
        proposal_id = await _open_proposal(session, "GET", target, "UserDocumentNotProposed")
        return await session.app("POST", f"/users/proposals/{proposal_id}/ballots/submit", {"ballot": ballot})

    async def on_proposal(session: Session) -> Outgoing:
        return await session.app("POST", f"/users/proposals/{session.params['p']}/ballots/submit", {"ballot": ballot})

    OPERATIONS[("POST", f"/userdocuments/{{d}}/{path}")] = on_document
    OPERATIONS[("POST", f"/users/proposals/{{p}}/ballots/{path}")] = on_proposal


_register_user_votes("vote_accept", "accepted")
_register_user_votes("vote_reject", "rejected")


@at("POST", "/userdocuments/{d}/vote")
async def _vote_document(session: Session) -> Outgoing:
    ballot = _ballot_of(session)
    proposal_id = await _open_proposal(session, "GET", f"/userdocuments/{session.params['d']}", "UserDocumentNotProposed")
    return await session.app("POST", f"/users/proposals/{proposal_id}/ballots/submit", {"ballot": ballot})


def _register_document_option(path: str, verb: str | None) -> None:
    async def switch(session: Session) -> Outgoing:
        document_id, option = session.params["d"], session.params["o"]
        contract_id = (await session.read("GET", f"/userdocuments/{document_id}")).get("contractId")
        return await session.app("POST", f"/contracts/{contract_id}/userdocuments/{document_id}/runtimeoptions/{option}/{verb}")

    OPERATIONS[("POST", path)] = switch


_register_document_option("/userdocuments/{d}/runtimeoptions/{o}/enable", "enable")
_register_document_option("/userdocuments/{d}/runtimeoptions/{o}/disable", "disable")
_register_document_option("/userdocuments/{d}/checkstatus/{o}", "status")


@at("POST", "/users/identities/add")
async def _add_identity(session: Session) -> Outgoing:
    return await session.propose("set_user_identity", await identity_action(session))


@at("POST", "/users/invitations/propose")
async def _propose_invitation(session: Session) -> Outgoing:
    args = invitation_action(session.body())
    answer = await session.propose("set_user_invitation_by_jwt_claims", args)
    answer.body = {**answer.body, "invitationId": args["invitationId"]}
    return answer


@at("POST", "/proposals/create")
async def _create_governance_proposal(session: Session) -> Outgoing:
    actions = session.body().get("actions")
    return await session.govern(lambda tx, constitution, who: constitution.create(tx, who, actions))


@at("POST", "/proposals/{p}/withdraw")
async def _withdraw(session: Session) -> Outgoing:
    return await session.govern(lambda tx, constitution, who: constitution.withdraw(tx, who, session.params["p"]))


@at("POST", "/proposals/{p}/ballots/vote_accept")
async def _accept(session: Session) -> Outgoing:
    return await session.vote(session.params["p"], True)


@at("POST", "/proposals/{p}/ballots/vote_reject")
async def _reject(session: Session) -> Outgoing:
    return await session.vote(session.params["p"], False)


@at("POST", "/proposals/{p}/ballots/vote")
async def _vote(session: Session) -> Outgoing:
    return await session.vote(session.params["p"], _script(session.need("ballot", "BallotKeyMissing")))


def _read_governance(path: str, work: Callable[[Tx, Constitution, str], Any]) -> None:
    async def read(session: Session) -> Outgoing:
        session.member()
        body, seqno = session.governance.store.read(lambda tx: work(tx, session.constitution, session.params.get("p", "")))
        return Outgoing(200, body, {"x-ms-ccf-transaction-id": f"{VIEW}.{seqno}"})

    OPERATIONS[("GET", path)] = read


def _actions(tx: Tx, constitution: Constitution, proposal_id: str) -> Any:
    constitution.show(tx, proposal_id)
    return tx.get(PROPOSALS, proposal_id)


def _votes(tx: Tx, constitution: Constitution, proposal_id: str) -> Any:
    constitution.show(tx, proposal_id)
    return ["accepted" if vote else "rejected" for vote in tx.get(PROPOSALS_INFO, proposal_id)["ballots"].values()]


_read_governance("/proposals", lambda tx, constitution, _: {"value": constitution.all(tx)})
_read_governance("/proposals/{p}", lambda tx, constitution, proposal_id: constitution.show(tx, proposal_id))
_read_governance("/proposals/{p}/actions", _actions)
_read_governance("/proposals/{p}/votes", _votes)


def _unused(call: Call, tx: Tx) -> Reply:
    raise AssertionError("The proxy calls OPERATIONS, not the handlers of its routes.")


_TABLE = RouteTable([Route(method, path, MEMBER_OR_USER, _unused) for method, path in OPERATIONS])


class Proxy:
    """Answers ``/cgs-client/...`` with the identity of each request."""

    def __init__(self, governance: Governance) -> None:
        self.governance = governance
        self.constitution = Constitution(governance.config.members)

    async def handle(self, request: Incoming) -> Outgoing:
        """Answer one request. Errors of the application pass through with status and body."""
        try:
            return await self._answer(request)
        except Upstream as error:
            return error.answer
        except Fault as fault:
            return failure(fault)
        except Crash as crash:
            return failure(Fault(500, "InternalError", f"The application threw: {crash}."))
        except Exception as error:
            _log.exception("%s failed", request.method)
            return failure(Fault(500, type(error).__name__, "The proxy failed; see its log."))

    async def _answer(self, request: Incoming) -> Outgoing:
        path = request.path.removeprefix(PREFIX)
        identity = {name: request.headers[name] for name in ("authorization", MEMBER_HEADER) if name in request.headers}
        if path.startswith("/as/"):
            token, _, rest = path[4:].partition("/")
            identity, path = {MEMBER_HEADER: token}, f"/{rest}"
        if MEMBER_HEADER in identity and self.governance.auth.member(identity[MEMBER_HEADER]) is None:
            raise Fault(401, "InvalidAuthenticationInfo", f"{MEMBER_HEADER} is not the token of a configured member.")
        if not identity and path != "/ready":
            raise Fault(401, "InvalidAuthenticationInfo", f"Send Authorization: Bearer or {MEMBER_HEADER}.")
        route, params = _TABLE.find(request.method, path)
        return await OPERATIONS[(route.method, route.path)](Session(self.governance, self.constitution, request, params, identity))
