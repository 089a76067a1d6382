"""Start, watch and stop of processes: order, failures, Ctrl-C, orphans."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import ANY

import psutil
import pytest

from cleanroom.errors import Conflict, Internal, NotFound, TimedOut, Unavailable
from localcloud.launcher import temporal_server
from localcloud.launcher.detached import read_status, restart_exited, start_detached, stop_detached
from localcloud.launcher.ports import stable_ports
from localcloud.launcher.processes import PORT_RANGE, Ready, RunningService, Service, free_ports, running
from localcloud.launcher.restarts import Crashes, RestartPolicy
from localcloud.launcher.supervisor import Step, Supervisor
from tests.patience import PATIENCE

LISTEN = """
import http.server, signal, sys, subprocess
signal.signal(signal.SIGTERM, lambda *a: (print("bye", flush=True), sys.exit(0)))
if "--child" in sys.argv:
    print("child", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def listener(folder: Path, name: str = "web", *, after: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> Service:
    port = free_ports(1)[0]
    return Service(
        name=name,
        argv=(sys.executable, "-c", LISTEN, str(port), *extra),
        ready=Ready(kind="http", url=f"http://127.0.0.1:{port}/"),
        url=f"http://127.0.0.1:{port}",
        log=folder / f"{name}.log",
        cwd=folder,
        after=after,
        seconds=PATIENCE,
    )


def broken(folder: Path, code: str, **over) -> Service:
    return listener(folder, "broken").model_copy(update={"argv": (sys.executable, "-c", code)} | over)


def until(check, seconds: float = PATIENCE):
    deadline = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return value


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


class TestProcesses:
    def test_ready_service_stops_with_its_children(self, tmp_path: Path):
        with running([listener(tmp_path, extra=("--child",))]) as started:
            process = started["web"]
            child = int(until(lambda: re.search(r"child (\d+)\n", (tmp_path / "web.log").read_text()))[1])
            assert psutil.pid_exists(child)
        assert process.exit_code() == 0
        until(lambda: gone(child))

    def test_process_that_ignores_sigterm_is_killed(self, tmp_path: Path):
        code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
        process = RunningService(broken(tmp_path, code, stop_seconds=0.2))
        until(lambda: "on" in (tmp_path / "broken.log").read_text())
        process.stop()
        assert process.exit_code() == -signal.SIGKILL

    def test_early_exit_is_reported_with_the_end_of_the_log(self, tmp_path: Path):
        with (
            pytest.raises(Unavailable, match="exit code 3") as caught,
            running([broken(tmp_path, "print('no disk'); raise SystemExit(3)")]),
        ):
            pytest.fail("became ready")
        assert "no disk" in (caught.value.cause or "")

    def test_service_that_is_not_ready_in_time_is_an_error(self, tmp_path: Path):
        with pytest.raises(TimedOut, match="ServiceNotReady"), running([broken(tmp_path, "import time; time.sleep(600)", seconds=0.5)]):
            pytest.fail("became ready")

    def test_another_process_on_the_port_does_not_count_as_ready(self, tmp_path: Path):
        other = listener(tmp_path, "other")
        slow = broken(tmp_path, "import time; time.sleep(1); raise SystemExit('address in use')", url=other.url, ready=other.ready)
        with running([other]), pytest.raises(Unavailable, match="ServiceExited"), running([slow]):
            pytest.fail("became ready")

    def test_environment_is_not_in_the_repr(self, tmp_path: Path):
        service = listener(tmp_path).model_copy(update={"env": {"KEY": "hunter2"}})
        assert "hunter2" not in repr(service)

    def test_free_ports_are_distinct_and_below_the_ephemeral_range(self):
        assert len(chosen := set(free_ports(50))) == 50
        with socket.socket() as somebody:
            somebody.bind(("127.0.0.1", 0))
            assert max(chosen) < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]) <= somebody.getsockname()[1]


def test_free_ports_are_chosen_from_the_range_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    [first] = free_ports(1)
    monkeypatch.setenv(PORT_RANGE, f"{first}-{first + 100}")
    assert all(first <= port <= first + 100 for port in free_ports(2))
    monkeypatch.setenv(PORT_RANGE, f"{first}-{first}")
    with pytest.raises(Unavailable, match="PortsExhausted"):
        free_ports(2)


def test_ports_are_kept_and_avoid_other_servers(tmp_path: Path):
    file = tmp_path / "ports.json"
    wanted, taken = free_ports(2)
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", taken))
        somebody.listen()
        first = stable_ports(file, preferred={"ui": wanted, "api": taken}, others=["a", "b"])
    assert first["ui"] == wanted
    assert first["api"] != taken
    assert len(set(first.values())) == 4
    assert stable_ports(file, preferred={"ui": wanted, "api": taken}, others=["a", "b"]) == first
    assert stable_ports(file, preferred={"ui": wanted, "api": taken}, others=["a", "b", "c"]) | first == first | {"c": ANY}
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", wanted))
        somebody.listen()
        moved = stable_ports(file, preferred={"ui": wanted, "api": taken}, others=["a", "b"])
    assert moved["ui"] != wanted
    assert (moved["a"], moved["b"]) == (first["a"], first["b"])


def test_delay_doubles_up_to_a_limit_and_a_service_that_stays_ready_has_recovered():
    crashes = Crashes(RestartPolicy(limit=4, first_seconds=1, longest_seconds=4, stable_seconds=60))
    assert [crashes.crash(now) for now in range(5)] == [1, 2, 4, 4, None]
    crashes.ready(100)
    assert crashes.crash(159) is None
    crashes.ready(200)
    assert crashes.crash(260) == 1
    assert [crashes.due(now) for now in (260, 260.9, 261)] == [False, False, True]
    crashes.crash(261)
    crashes.forget()
    assert crashes.crash(262) == 1
    assert Crashes(RestartPolicy()).crash(0) is None


class TestSupervisor:
    def test_services_start_in_order_and_stop_in_reverse(self, tmp_path: Path):
        events: list[str] = []
        seen: list[bool] = []
        first, last = listener(tmp_path, "first"), listener(tmp_path, "last", after=("set-up",))
        step = Step("set-up", lambda: seen.append(not (tmp_path / "last.log").exists()), after=("first",))
        supervisor = Supervisor(tmp_path, lambda: [last, step, first], on_event=events.append)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            until(lambda: (read_status(tmp_path) or {}).get("status") == "ready")
            status = read_status(tmp_path)
            assert {s["name"]: s["state"] for s in status["services"]} == {"first": "ready", "set-up": "ready", "last": "ready"}
            assert (tmp_path / "services.json").stat().st_mode & 0o077 == 0
            assert seen == [True]
        finally:
            supervisor.stop()
            thread.join(PATIENCE)
        assert [text.split()[0] for text in events] == ["first", "set-up", "last", "last", "first"]
        assert read_status(tmp_path)["status"] == "stopped"

    def test_ended_service_is_reported_and_not_restarted(self, tmp_path: Path):
        web = listener(tmp_path)
        supervisor = Supervisor(tmp_path, lambda: [web])
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            until(lambda: (read_status(tmp_path) or {}).get("status") == "ready")
            os.kill(read_status(tmp_path)["services"][0]["pid"], signal.SIGKILL)
            until(lambda: json.loads((tmp_path / "services.json").read_text())["services"][0]["exit_code"] == -signal.SIGKILL)
            assert read_status(tmp_path)["services"][0]["state"] == "exited"
            assert read_status(tmp_path)["status"] == "ready"
        finally:
            supervisor.stop()
            thread.join(PATIENCE)

    def test_exited_services_are_restarted_and_the_others_keep_running(self, tmp_path: Path):
        first, second = listener(tmp_path, "first"), listener(tmp_path, "second", after=("first",))
        events: list[str] = []
        start_detached(tmp_path, TestDetached.argv(tmp_path, first, second, listener(tmp_path, "third")), seconds=PATIENCE, on_event=print)
        try:
            before = {s["name"]: s["pid"] for s in read_status(tmp_path)["services"]}
            for name in ("first", "second"):
                os.kill(before[name], signal.SIGKILL)
            until(lambda: [s["state"] for s in read_status(tmp_path)["services"]] == ["exited", "exited", "ready"])
            until(lambda: sum(s["exit_code"] is not None for s in json.loads((tmp_path / "services.json").read_text())["services"]) == 2)
            status = restart_exited(tmp_path, seconds=PATIENCE, on_event=events.append)
            after = {s["name"]: s["pid"] for s in status["services"]}
            assert {s["state"] for s in status["services"]} == {"ready"}
            assert [after[name] == before[name] for name in before] == [False, False, True]
            assert [event.split(" ready")[0] for event in events if " ready" in event] == ["first", "second"]
        finally:
            stop_detached(tmp_path)

    def test_crashed_service_starts_again_until_the_limit_and_a_stopped_one_does_not(self, tmp_path: Path):
        policy = RestartPolicy(limit=2, first_seconds=0.01)
        web, other = listener(tmp_path), listener(tmp_path, "other")
        events: list[str] = []
        supervisor = Supervisor(tmp_path, lambda: [web, other], on_event=events.append, policy=policy)
        thread = threading.Thread(target=supervisor.run)
        thread.start()

        def service(name: str = "web") -> dict:
            return next(s for s in (read_status(tmp_path) or {"services": [{"name": name, "state": ""}]})["services"] if s["name"] == name)

        try:
            until(lambda: (read_status(tmp_path) or {}).get("status") == "ready")
            os.kill(service("other")["pid"], signal.SIGTERM)
            for restarts in (1, 2):
                before = service()["pid"]
                os.kill(before, signal.SIGKILL)
                until(lambda number=restarts: (service()["state"], service()["restarts"]) == ("ready", number))
                assert service()["pid"] != before
            os.kill(service()["pid"], signal.SIGKILL)
            until(lambda: service()["state"] == "exited" and service()["exit_code"] is not None)
            assert (service()["exit_code"], service()["restarts"]) == (-signal.SIGKILL, 2)
            until(lambda: service("other")["exit_code"] is not None)
            assert (service("other")["state"], service("other")["exit_code"], service("other")["restarts"]) == ("exited", 0, 0)
        finally:
            supervisor.stop()
            thread.join(PATIENCE)
        assert [text.partition(" See ")[0] for text in events if "Start" in text] == [
            f"web ended with exit code -9. Start {number} of 2 follows in 0 s." for number in (1, 2)
        ]

    def test_restart_that_fails_is_an_error_and_keeps_the_others(self, tmp_path: Path):
        once = "import os, sys; sys.exit(4) if os.path.exists('started') else open('started', 'w'); sys.argv = ['', sys.argv[1]]\n" + LISTEN
        bad = listener(tmp_path, "bad")
        bad = bad.model_copy(update={"argv": (sys.executable, "-c", once, *bad.argv[3:])})
        start_detached(tmp_path, TestDetached.argv(tmp_path, listener(tmp_path), bad), seconds=PATIENCE, on_event=print)
        try:
            os.kill(read_status(tmp_path)["services"][1]["pid"], signal.SIGKILL)
            until(lambda: json.loads((tmp_path / "services.json").read_text())["services"][1]["exit_code"] is not None)
            with pytest.raises(Unavailable, match="ServiceExited"):
                restart_exited(tmp_path, seconds=PATIENCE, on_event=print)
            status = read_status(tmp_path)
            assert (status["status"], [s["state"] for s in status["services"]]) == ("ready", ["ready", "exited"])
        finally:
            stop_detached(tmp_path)

    def test_failed_service_stops_the_started_ones(self, tmp_path: Path):
        bad = broken(tmp_path, "raise SystemExit(4)").model_copy(update={"after": ("web",)})
        with pytest.raises(Unavailable, match="ServiceExited"):
            Supervisor(tmp_path, lambda: [listener(tmp_path), bad]).run()
        status = read_status(tmp_path)
        assert status["status"] == "failed"
        assert status["error"]["code"] == "ServiceExited"
        assert all(gone(s["pid"]) for s in status["services"])

    def test_failed_step_stops_everything(self, tmp_path: Path):
        def fail() -> None:
            raise NotFound("NoUser", "There is no user.")

        with pytest.raises(NotFound):
            Supervisor(tmp_path, lambda: [listener(tmp_path), Step("set-up", fail, after=("web",))]).run()
        assert all(gone(s["pid"]) for s in read_status(tmp_path)["services"] if s["pid"])

    def test_unknown_or_circular_dependencies_are_invalid(self, tmp_path: Path):
        with pytest.raises(Internal, match="unknown dependencies"):
            Supervisor(tmp_path, lambda: [listener(tmp_path, after=("nobody",))]).run()
        with pytest.raises(Internal, match="Circular dependencies between"):
            Supervisor(tmp_path, lambda: [listener(tmp_path, "a", after=("b",)), listener(tmp_path, "b", after=("a",))]).run()

    def test_second_supervisor_of_a_state_folder_is_a_conflict(self, tmp_path: Path):
        web = listener(tmp_path)
        supervisor = Supervisor(tmp_path, lambda: [web])
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            until(lambda: (read_status(tmp_path) or {}).get("status") == "ready")
            with pytest.raises(Conflict, match="AlreadyRunning"):
                Supervisor(tmp_path, lambda: [listener(tmp_path, "other")]).run()
            assert read_status(tmp_path)["services"][0]["name"] == "web"
        finally:
            supervisor.stop()
            thread.join(PATIENCE)


SCRIPT = """
import sys
from pathlib import Path
from localcloud.launcher.ports import stable_ports
from localcloud.launcher.processes import Service
from localcloud.launcher.supervisor import Supervisor
state = Path(sys.argv[1])
services = [Service.model_validate_json(text) for text in sys.argv[2:]]
Supervisor(state, lambda: services, on_event=lambda text: print(text, flush=True)).run()
"""


class TestDetached:
    @staticmethod
    def argv(state: Path, *services: Service) -> list[str]:
        return [sys.executable, "-c", SCRIPT, str(state), *(service.model_dump_json() for service in services)]

    def test_detached_supervisor_starts_and_stops(self, tmp_path: Path):
        events: list[str] = []
        status = start_detached(tmp_path, self.argv(tmp_path, listener(tmp_path)), seconds=PATIENCE, on_event=events.append)
        assert status["status"] == "ready"
        assert events[0].startswith("web ready at http")
        assert stop_detached(tmp_path)
        assert gone(status["pid"])
        assert gone(status["services"][0]["pid"])
        assert not stop_detached(tmp_path)

    def test_failure_of_a_detached_supervisor_is_raised(self, tmp_path: Path):
        with pytest.raises(Unavailable) as caught:
            start_detached(tmp_path, self.argv(tmp_path, broken(tmp_path, "raise SystemExit(4)")), seconds=PATIENCE, on_event=print)
        assert caught.value.code == "ServiceExited"

    def test_down_stops_the_services_of_a_killed_supervisor(self, tmp_path: Path):
        status = start_detached(tmp_path, self.argv(tmp_path, listener(tmp_path)), seconds=PATIENCE, on_event=print)
        os.kill(status["pid"], signal.SIGKILL)
        until(lambda: gone(status["pid"]))
        assert read_status(tmp_path)["status"] == "orphaned"
        assert stop_detached(tmp_path)
        until(lambda: gone(status["services"][0]["pid"]))

    def test_down_finds_the_services_after_the_clock_has_been_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        status = start_detached(tmp_path, self.argv(tmp_path, listener(tmp_path)), seconds=PATIENCE, on_event=print)
        created = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + 3600)
        assert read_status(tmp_path)["status"] == "ready"
        assert stop_detached(tmp_path)
        assert gone(status["pid"])

    def test_reused_process_id_is_not_signalled(self, tmp_path: Path):
        start_detached(tmp_path, self.argv(tmp_path, listener(tmp_path)), seconds=PATIENCE, on_event=print)
        stop_detached(tmp_path)
        file = tmp_path / "services.json"
        bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        try:
            value = json.loads(file.read_text())
            value["status"] = "ready"
            value["services"][0] |= {"pid": bystander.pid, "state": "ready"}
            file.write_text(json.dumps(value))
            assert not stop_detached(tmp_path)
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()

    def test_ctrl_c_stops_the_services_in_order(self, tmp_path: Path):
        first, last = listener(tmp_path, "first"), listener(tmp_path, "last", after=("first",))
        process = subprocess.Popen(self.argv(tmp_path, first, last), stdout=subprocess.PIPE, text=True)
        until(lambda: (read_status(tmp_path) or {}).get("status") == "ready")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert output.splitlines()[-2:] == ["last stopped", "first stopped"]
        assert all(gone(s["pid"]) for s in read_status(tmp_path)["services"])

    def test_down_without_a_start_is_not_found(self, tmp_path: Path):
        with pytest.raises(NotFound, match="NothingStarted"):
            stop_detached(tmp_path)


def test_temporal_starts_with_its_search_attributes_and_keeps_its_database(tmp_path: Path):
    from temporalio.client import Client

    port, ui, http, metrics = free_ports(4)
    service = temporal_server.service(
        database=tmp_path / "temporal.db",
        port=port,
        ui_port=ui,
        http_port=http,
        metrics_port=metrics,
        log=tmp_path / "log",
        search_attributes={"CrKind": "Keyword", "CrRunLimit": "Int"},
    )

    async def start() -> None:
        from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

        client = await Client.connect(service.url)
        attributes = TypedSearchAttributes([SearchAttributePair(SearchAttributeKey.for_keyword("CrKind"), "run")])
        await client.start_workflow("Nothing", id="kept", task_queue="nobody", search_attributes=attributes)

    async def find() -> list[str]:
        client = await Client.connect(service.url)
        return [(await client.get_workflow_handle("kept").describe()).id]

    import asyncio

    with running([service]):
        asyncio.run(start())
    with running([service]):
        assert asyncio.run(find()) == ["kept"]
