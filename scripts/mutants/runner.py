"""Run the tests against each fault: collect once, then one forked process per fault.

The pytest plugin replaces the loop over tests. A first process runs every test with tracing, to learn which tests execute which
lines, and how long each takes. A fault then needs only the tests that execute its lines, the fastest first, up to the first failure.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from scripts.mutants.apply import Functions
from scripts.mutants.faults import Fault

Line = tuple[str, int]
SURVIVED, KILLED, NOT_RUN, TIMED_OUT = "survived", "killed", "not run", "timed out"


@dataclass
class Coverage:
    """Which lines each test executes, and its seconds. Lines of shared fixtures belong to every test that uses the fixture."""

    lines: dict[str, set[Line]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    fixtures: dict[str, set[Line]] = field(default_factory=lambda: defaultdict(set))
    failed: set[str] = field(default_factory=set)


class Tracer:
    """Records executed lines of the target files, in all threads."""

    def __init__(self, files: set[str]) -> None:
        self._files = files
        self.seen: set[Line] = set()

    def start(self) -> None:
        """Trace this thread and those that start later."""
        threading.settrace(self._call)
        sys.settrace(self._call)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


class Mutants:
    """The pytest plugin."""

    def __init__(self, faults: Sequence[Fault], root: Path, *, jobs: int, seconds: float) -> None:
        self._faults, self._root, self._jobs, self._seconds = faults, root, jobs, seconds
        self._files = {str(root / fault.file) for fault in faults}
        self._tracer: Tracer | None = None
        self._coverage = Coverage()
        self.results: list[tuple[Fault, str]] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        """Attribute the lines of shared fixtures."""
        if self._tracer is None or fixturedef.scope == "function":
            yield
            return
        before, self._tracer.seen = self._tracer.seen, set()
        yield
        self._coverage.fixtures[fixturedef.argname] |= self._tracer.seen
        self._tracer.seen |= before

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the baseline, then the faults."""
        if session.testsfailed:
            raise session.Interrupted("collection failed")
        coverage = self._baseline(session)
        print(f"{len(coverage.lines)} tests, {len(coverage.failed)} of them excluded because they fail or need much time", flush=True)
        functions = Functions(self._files)
        running: dict[int, tuple[Fault, float]] = {}
        waiting = list(reversed(self._faults))
        while waiting or running:
            if waiting and len(running) < self._jobs:
                fault = waiting.pop()
                tests, needed = self._tests(session, coverage, fault)
                if not tests:
                    self._note(fault, NOT_RUN)
                    continue
                pid = os.fork()
                if pid == 0:
                    self._child(session, tests, fault, functions)
                running[pid] = fault, time.monotonic() + 3 * needed + 10
                continue
            self._reap(running)
        return True

    def _note(self, fault: Fault, result: str) -> None:
        self.results.append((fault, result))
        if len(self.results) % 50 == 0:
            print(f"{len(self.results)} of {len(self._faults)}", flush=True)

    def _reap(self, running: dict[int, tuple[Fault, float]]) -> None:
        for pid, (fault, deadline) in list(running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                self._note(fault, SURVIVED if status == 0 else KILLED)
            elif time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                del running[pid]
                self._note(fault, TIMED_OUT)
        time.sleep(0.005)

    def _tests(self, session: pytest.Session, coverage: Coverage, fault: Fault) -> tuple[list[pytest.Item], float]:
        path = str(self._root / fault.file)
        lines = {(path, number) for number in range(fault.first_line, fault.last_line + 1)}
        found = [
            item
            for item in session.items
            if item.nodeid in coverage.lines
            and item.nodeid not in coverage.failed
            and (not fault.function or not lines.isdisjoint(coverage.lines[item.nodeid]))
        ]
        if not fault.function:
            found = [item for item in found if any(file == path for file, _ in coverage.lines[item.nodeid])]
        found.sort(key=lambda item: coverage.seconds[item.nodeid])
        chosen, needed = [], 0.0
        for item in found:
            needed += coverage.seconds[item.nodeid]
            if chosen and needed > self._seconds:
                break
            chosen.append(item)
        return chosen, min(needed, self._seconds)

    # ------------------------------------------------------------------ child processes

    def _child(self, session: pytest.Session, tests: Sequence[pytest.Item], fault: Fault, functions: Functions) -> None:
        os.setpgid(0, 0)
        end_with_parent()
        silence()
        status = 1
        try:
            functions.apply(fault, self._root)
            session.testsfailed = 0
            run(session, tests)
            status = 1 if session.testsfailed else 0
        finally:
            os._exit(status)

    def _baseline(self, session: pytest.Session) -> Coverage:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "coverage"
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    end_with_parent()
                    silence()
                    self._trace(session)
                    file.write_bytes(pickle.dumps(self._coverage))
                    status = 0
                finally:
                    os._exit(status)
            os.waitpid(pid, 0)
            found: Coverage = pickle.loads(file.read_bytes())
        return found

    def _trace(self, session: pytest.Session) -> None:
        self._tracer = Tracer(self._files)
        self._coverage.fixtures = defaultdict(set)
        self._tracer.start()
        for index, item in enumerate(session.items):
            self._tracer.seen = set()
            failed, start = session.testsfailed, time.monotonic()
            # Tests change the trace function of a thread (pytest-timeout does not, debuggers do).
            sys.settrace(self._tracer._call)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=(*session.items, None)[index + 1])
            seconds = time.monotonic() - start
            self._coverage.seconds[item.nodeid] = seconds
            self._coverage.lines[item.nodeid] = self._tracer.seen
            if session.testsfailed > failed or seconds > self._seconds:
                self._coverage.failed.add(item.nodeid)
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        for item in session.items:
            for name in getattr(item, "fixturenames", ()):
                self._coverage.lines[item.nodeid] |= self._coverage.fixtures.get(name, set())
        self._coverage.fixtures = {}


def run(session: pytest.Session, tests: Sequence[pytest.Item]) -> None:
    """Run tests up to the first failure, and tear their fixtures down."""
    for index, item in enumerate(tests):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=(*tests, None)[index + 1])
        if session.testsfailed:
            session._setupstate.teardown_exact(None)
            return


def end_with_parent() -> None:
    """On Linux, let the kernel kill this process when its parent ends (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def silence() -> None:
    """Discard what the process prints."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
