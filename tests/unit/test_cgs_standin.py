"""Properties of the CGS stand-in: durability after SIGKILL, encryption on disk, logs without credentials, governance rules."""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from localcloud.launcher.processes import free_ports
from localcloud.standins.cgs.auth import IssuerConfig
from localcloud.standins.cgs.callers import MEMBER_HEADER, MemberConfig
from localcloud.standins.serving import serving
from tests.conformance.governance.standin import AUDIENCE, ISSUER, MEMBER_TOKEN, StandIn
from tests.conformance.governance.target import Target, expect, fresh
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("cgs-standin"))


class Process:
    """The stand-in as a process, as the supervisor runs it."""

    def __init__(self, standin: StandIn, state: Path) -> None:
        [self.port] = free_ports(1)
        config = standin.config(state=state, port=self.port, slow_history=False)
        self.file = state.with_suffix(".json")
        self.file.write_text(config.model_dump_json())
        self.settings = standin.settings(f"https://localhost:{self.port}")
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> Target:
        command = [sys.executable, "-m", "localcloud.standins.cgs", "--config", str(self.file)]
        self.child = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
        target = Target(self.settings)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                if target.http.get("/healthz").status_code == 200:
                    return target
            except httpx.TransportError:
                threading.Event().wait(0.05)
        raise AssertionError("the stand-in did not start")

    def kill(self) -> None:
        assert self.child is not None
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


@pytest.fixture
def process(standin: StandIn, tmp_path: Path) -> Iterator[Process]:
    server = Process(standin, tmp_path / "state")
    yield server
    if server.child is not None and server.child.poll() is None:
        server.kill()


def test_acknowledged_ballot_survives_sigkill(process: Process) -> None:
    target = process.start()
    target.enroll()
    contract = target.contract()
    highest = 0
    for round_ in range(2):
        proposals = [target.propose(fresh("doc"), target.ann, [target.ann, target.bob]) for _ in range(40)]
        acknowledged: dict[str, int] = {}

        def vote(rows: list[str], target: Target = target, acknowledged: dict[str, int] = acknowledged) -> None:
            for proposal_id in rows:
                try:
                    response = target.vote(proposal_id, target.ann)
                except httpx.TransportError:
                    return
                if response.status_code == 200:
                    acknowledged[proposal_id] = int(response.headers["x-ms-ccf-transaction-id"].split(".")[1])

        threads = [threading.Thread(target=vote, args=(proposals[start::6],)) for start in range(6)]
        for thread in threads:
            thread.start()
        enough = 10 * (round_ + 1)
        while len(acknowledged) < enough and any(thread.is_alive() for thread in threads):
            threading.Event().wait(0.001)
        process.kill()
        for thread in threads:
            thread.join()
        assert len(acknowledged) >= enough
        target = process.start()
        for proposal_id in acknowledged:
            body = expect(target.call("POST", f"/app/users/proposals/{proposal_id}/status", target.bob), 200)
            assert body["ballots"] == [{"approverId": target.ann.oid, "ballot": "accepted"}]
        # Sequence numbers are never reused.
        again = target.put(fresh("doc"), target.ann, contractId=contract).headers["x-ms-ccf-transaction-id"]
        assert int(again.split(".")[1]) > max([highest, *acknowledged.values()])
        highest = int(again.split(".")[1])


def test_secrets_and_signing_keys_are_encrypted_on_disk(standin: StandIn, tmp_path: Path) -> None:
    canary = "canary-7f3a9c-do-not-find-me"
    with standin.serve(state=tmp_path) as settings:
        target = Target(settings)
        target.enroll()
        path = f"/app/contracts/{target.contract()}/secrets/{fresh('s')}"
        expect(target.call("PUT", path, target.ann, json={"value": canary}), 200)
        target.govern("enable_oidc_issuer", {"kid": "k"})
        expect(target.call("POST", "/app/oidc/generateSigningKey", "member"), 200)
        target.close()
    assert stat.S_IMODE(os.stat(tmp_path / "storage.key").st_mode) == 0o600
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert canary.encode() not in content
        assert b"PRIVATE KEY" not in content


def test_state_survives_a_restart(standin: StandIn, tmp_path: Path) -> None:
    with standin.serve(state=tmp_path) as settings:
        target = Target(settings)
        target.enroll()
        contract = target.contract()
        secret = expect(target.call("PUT", f"/app/contracts/{contract}/secrets/a", target.ann, json={"value": "v"}), 200)["secretId"]
        document_id = target.accepted([target.ann, target.bob])
        before = target.get(document_id)
        target.close()
    with standin.serve(state=tmp_path) as settings:
        target = Target(settings)
        assert target.get(document_id) == before
        guest = target.guest()
        assert guest.unwrap(expect(target.call("POST", f"/app/contracts/{contract}/secrets/{secret}", json=guest.read()), 200)) == b"v"
        target.close()


def test_request_log_contains_no_tokens(standin: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with standin.serve(state=tmp_path) as settings:
        target = Target(settings)
        expect(target.http.get(f"/cgs-client/as/{MEMBER_TOKEN}/members"), 200)
        expect(target.http.get("/cgs-client/as/wrong-token-wrong-token/members"), 401, "InvalidAuthenticationInfo")
        expect(target.http.get("/cgs-client/members"), 401, "InvalidAuthenticationInfo")
        target.close()
    log = "\n".join(record.getMessage() for record in caplog.records if record.name == "localcloud.cgs")
    assert "/cgs-client/as/***/members" in log
    assert MEMBER_TOKEN not in log


def test_issuer_keys_are_cached_and_refetched_for_a_new_kid(standin: StandIn, tmp_path: Path) -> None:
    keys = json.loads((standin.folder / "jwks.json").read_text())["keys"]
    served: list[dict[str, str]] = []
    asked = 0

    async def jwks(request: object) -> JSONResponse:
        nonlocal asked
        asked += 1
        return JSONResponse({"keys": served})

    issuer_app = Starlette(routes=[Route("/keys", jwks)])
    state = tmp_path / "state"
    with serving(issuer_app, "issuer", standin.tls) as url:
        issuer = IssuerConfig(issuer=ISSUER, jwks_uri=f"{url}/keys", ca_file=standin.authority.ca_file, audience=AUDIENCE)
        with standin.serve(state=state, issuers=(issuer,)) as settings:
            target = Target(settings)
            served.extend(keys)
            expect(target.call("GET", "/app/userdocuments", target.ann), 403, "CallerNotAuthorized")
            for _ in range(5):
                expect(target.call("GET", "/app/userdocuments", target.ann), 403, "CallerNotAuthorized")
            assert asked == 1
            target.close()
    # The issuer is down. Cached keys still work; an unknown key is 503 and not 401.
    with standin.serve(state=state, issuers=(issuer,)) as settings:
        target = Target(settings)
        expect(target.call("GET", "/app/userdocuments", target.ann), 403, "CallerNotAuthorized")
        expect(target.call("GET", "/app/userdocuments", target.token(target.ann, kid="new")), 503, "IssuerKeysUnavailable")
        target.close()


def test_token_for_another_audience_is_rejected(standin: StandIn, tmp_path: Path) -> None:
    with standin.serve(state=tmp_path) as settings:
        target = Target(settings)
        expect(
            target.call("GET", "/app/userdocuments", target.token(target.ann, aud="https://vault.azure.net")),
            401,
            "InvalidAuthenticationInfo",
        )
        expect(target.call("GET", "/app/userdocuments", target.token(target.ann, exp="9999999999")), 401, "InvalidAuthenticationInfo")
        expect(
            target.call("PUT", "/app/contracts/c", headers={MEMBER_HEADER: "x" * 40}, json={"data": 1}), 401, "InvalidAuthenticationInfo"
        )
        target.close()


def test_too_large_body_is_413(standin: StandIn, tmp_path: Path) -> None:
    with standin.serve(state=tmp_path) as settings:
        target = Target(settings)
        target.enroll()
        response = target.call("PUT", f"/app/userdocuments/{fresh('d')}", target.ann, content=b"x" * (5 << 20))
        expect(response, 413, "RequestBodyTooLarge")
        target.close()


def member_config(name: str, **data: object) -> MemberConfig:
    return MemberConfig(name=name, token=f"{name}-token-0000000000000000", member_data=data or None)


def govern(target: Target, path: str, member: MemberConfig, body: object = None) -> httpx.Response:
    return target.http.post(f"/cgs-client{path}", json=body or {}, headers={MEMBER_HEADER: member.token})


def proposal(name: str = "enable_oidc_issuer", **args: object) -> dict[str, object]:
    return {"actions": [{"name": name, "args": args or {"kid": "k"}}]}


def test_oidc_without_issuer_key_or_url_is_405(standin: StandIn, tmp_path: Path) -> None:
    with standin.serve(state=tmp_path) as settings:
        target = Target(settings)
        target.enroll()
        contract = target.contract()
        query = "?exp=1&iat=1&jti=j&sub=s&tid=t&aud=a"
        token = f"/app/contracts/{contract}/oauth/token{query}"
        assert expect(target.call("POST", "/app/oidc/issuerInfo", target.ann), 200) == {"enabled": False}
        assert expect(target.http.get("/app/oidc/.well-known/openid-configuration"), 200)["issuer"] == "{placeholder}"
        expect(target.call("POST", "/app/oidc/generateSigningKey", "member"), 405, "OidcIssuerNotEnabled")
        expect(target.http.get("/app/oidc/keys"), 405, "SigningKeyNotAvailable")
        expect(target.call("POST", token, json=target.guest().read()), 405, "SigningKeyNotAvailable")
        target.govern("enable_oidc_issuer", {"kid": "k"})
        made = expect(target.call("POST", "/app/oidc/generateSigningKey", "member"), 200)
        assert made == {"reqId": "1", "kid": "k-1"}
        expect(target.call("POST", token, json=target.guest().read()), 405, "IssuerUrlNotSet")
        target.govern("enable_oidc_issuer", {"kid": "later ones change nothing"})
        assert expect(target.call("POST", "/app/oidc/generateSigningKey", "member"), 200) == made
        target.close()


def test_contract_needs_all_active_regular_members_and_one_can_reject(standin: StandIn, tmp_path: Path) -> None:
    one, two = member_config("one"), member_config("two")
    waiting = MemberConfig(name="waiting", token="waiting-token-000000000000", status="Accepted")
    with standin.serve(state=tmp_path, members=(one, two, waiting)) as settings:
        target = Target(settings)
        made = expect(govern(target, "/proposals/create", one, proposal()), 200)
        accept = f"/proposals/{made['proposalId']}/ballots/vote_accept"
        assert expect(govern(target, accept, one), 200)["proposalState"] == "Open"
        assert expect(govern(target, accept, one), 200)["ballotCount"] == 1
        expect(govern(target, accept.replace("accept", "reject"), one), 400, "VoteAlreadyExists")
        expect(govern(target, f"/proposals/{made['proposalId']}/withdraw", two), 403, "AuthorizationFailed")
        assert expect(govern(target, accept, two), 200)["proposalState"] == "Accepted"

        contract = proposal("set_contract", contractId="c", contract={"data": "x"})
        made = expect(govern(target, "/proposals/create", one, contract), 200)
        accept = f"/proposals/{made['proposalId']}/ballots/vote_accept"
        expect(govern(target, accept, one), 200)
        # A member in state Accepted must become active before a contract passes.
        assert expect(govern(target, accept, two), 200)["proposalState"] == "Open"
        vetoed = expect(govern(target, accept.replace("accept", "reject"), waiting), 200)
        assert vetoed["proposalState"] == "Rejected"
        target.close()


def test_operators_do_not_vote_and_without_voters_proposals_pass(standin: StandIn, tmp_path: Path) -> None:
    operator = member_config("operator2", isOperator=True)
    role = member_config("role", cgsRoles={"cgsOperator": "true"})
    with standin.serve(state=tmp_path, members=(operator, role)) as settings:
        target = Target(settings)
        assert expect(govern(target, "/proposals/create", operator, proposal()), 200)["proposalState"] == "Accepted"
        target.close()
    boolean = member_config("boolean", cgsRoles={"cgsOperator": True})
    with standin.serve(state=tmp_path / "two", members=(operator, boolean)) as settings:
        target = Target(settings)
        assert expect(govern(target, "/proposals/create", operator, proposal()), 200)["proposalState"] == "Open"
        target.close()


def test_contract_operator_passes_only_auto_approved_proposals(standin: StandIn, tmp_path: Path) -> None:
    regular = member_config("regular")
    operator = member_config("contracts", cgsRoles={"contractOperator": "true"})
    with standin.serve(state=tmp_path, members=(regular, operator)) as settings:
        target = Target(settings)

        def passed(name: str, **args: object) -> None:
            made = expect(govern(target, "/proposals/create", regular, proposal(name, **args)), 200)
            done = expect(govern(target, f"/proposals/{made['proposalId']}/ballots/vote_accept", regular), 200)
            assert done["proposalState"] == "Accepted"

        passed("set_contract", contractId="c", contract={"data": "x"})
        policy = proposal("set_clean_room_policy", contractId="c", type="add", claims={"x-ms-sevsnpvm-hostdata": "aa"})
        assert expect(govern(target, "/proposals/create", operator, policy), 200)["proposalState"] == "Open"
        passed("set_cgs_runtime_options", option="autoapprove-cleanroompolicy-proposal", status="enabled")
        assert expect(govern(target, "/proposals/create", operator, policy), 200)["proposalState"] == "Accepted"
        info = proposal("set_deployment_info", contractId="c", info={"data": {"a": 1}})
        assert expect(govern(target, "/proposals/create", operator, info), 200)["proposalState"] == "Open"
        target.close()


def _reads(settings: Any, path: str, token: str, connections: int) -> list[httpx.Response]:
    """Read once on each of several new connections, in turns."""
    clients = [httpx.Client(base_url=settings.url, verify=settings.verify) for _ in range(connections)]
    try:
        return [client.get(path, headers={"authorization": f"Bearer {token}"}) for client in clients]
    finally:
        for client in clients:
            client.close()


def test_every_second_connection_is_answered_by_a_node_that_lags(standin: StandIn) -> None:
    with standin.serve(state=standin.folder / "lag", lag_ms=1, slow_history=False) as settings:
        target = Target(settings)
        target.enroll()
        _reads(settings, "/app/userdocuments/none", target.token(target.ann), 2)  # the node that lags has the users
        standin.nodes.lag = 600
        document, token = fresh("doc"), target.token(target.ann)
        version = target.put(document, target.ann).headers["x-ms-ccf-transaction-id"]
        statuses = sorted(answer.status_code for answer in _reads(settings, f"/app/userdocuments/{document}", token, 4))
        assert statuses == [200, 200, 404, 404]
        standin.nodes.lag = 0.05
        time.sleep(0.05)
        answers = _reads(settings, f"/app/userdocuments/{document}", token, 4)
        assert {answer.json()["version"] for answer in answers} == {version}
        assert {answer.headers["x-ms-ccf-transaction-id"] for answer in answers} == {version}
        target.close()


def test_a_write_is_committed_with_the_next_signature(standin: StandIn) -> None:
    with standin.serve(state=standin.folder / "commit", commit_ms=600, slow_history=False) as settings:
        target = Target(settings)
        target.enroll()
        document = fresh("doc")
        began = time.monotonic()
        version = target.put(document, target.ann).headers["x-ms-ccf-transaction-id"]
        statuses = []
        while not statuses or statuses[-1] != "Committed":
            statuses.append(expect(target.http.get(f"/app/tx?transaction_id={version}"), 200)["status"])
            time.sleep(0.02)
        assert time.monotonic() - began < PATIENCE
        assert set(statuses[:-1]) <= {"Pending"}
        assert expect(target.http.get("/app/tx?transaction_id=2.999999"), 200)["status"] == "Unknown"
        assert expect(target.http.get("/app/tx?transaction_id=1.1"), 200)["status"] == "Invalid"
        target.close()


def test_lag_and_commit_interval_come_from_the_environment(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_MS", "400")
    monkeypatch.setenv("COMMIT_MS", "1000")
    assert (standin.config().lag_ms, standin.config().commit_ms) == (400, 1000)
    assert standin.config(lag_ms=7).lag_ms == 7
