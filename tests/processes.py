"""``--processes 4`` runs the tests in processes that are forked after one collection.

A process of pytest-xdist would import and collect all tests itself, which takes ten seconds of CPU. A forked one has them. It asks for
one piece after the other (:mod:`tests.distribution`), and sends its reports. A process that ends early fails the test that it was
running; another process continues with the rest of its piece.
"""

from __future__ import annotations

import atexit
import os
import random
import signal
import traceback
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from tests.distribution import piece, rank

Piece = list[int]
"""Positions of tests in the session."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--processes``."""
    parser.addoption("--processes", type=int, default=1, help="run the tests in this number of processes")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run long pieces first, in the processes of a distributed run."""
    if config.option.processes > 1:
        items.sort(key=lambda item: rank(item.nodeid))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the collected tests in processes; leave it to pytest if one process is enough."""
    if session.config.option.processes < 2 or session.config.option.collectonly or session.testsfailed:
        return None
    run = _Run(session)
    try:
        run.run()
    finally:
        run.end()
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


@dataclass
class _Process:
    """A forked process, from its parent's point of view."""

    number: int
    pid: int
    connection: Connection
    waiting: Piece = field(default_factory=list)
    """The tests that it has and that have not ended, first the one that runs."""
    started: bool = False
    """Whether it has started the first of them."""

    @cached_property
    def node(self) -> Any:
        """What reports show of the process."""
        name = f"process {self.number}"
        return SimpleNamespace(gateway=SimpleNamespace(id=name), _workerinfocache=f"[{name}]")


class _Run:
    """Hands pieces to processes and passes their reports to pytest."""

    def __init__(self, session: pytest.Session) -> None:
        self._session, self._config = session, session.config
        pieces: dict[str, Piece] = {}
        for position, item in enumerate(session.items):
            pieces.setdefault(piece(item.nodeid), []).append(position)
        self._pieces = deque(pieces.values())
        self._processes: dict[Connection, _Process] = {}

    def run(self) -> None:
        """Run all pieces, or stop early as ``--maxfail`` says."""
        # Created here, so that the processes have folders in the same one.
        self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        for number in range(min(self._config.option.processes, len(self._pieces))):
            self._fork(number)
        while self._processes and not (self._session.shouldfail or self._session.shouldstop):
            for connection in wait(list(self._processes)):
                assert isinstance(connection, Connection)
                self._receive(self._processes[connection])

    def end(self) -> None:
        """Interrupt the processes that still run, as if they were interrupted on the terminal, and wait for their end."""
        for process in self._processes.values():
            os.kill(process.pid, signal.SIGINT)
            os.waitpid(process.pid, 0)
            process.connection.close()
        self._processes.clear()

    def _fork(self, number: int) -> None:
        here, there = Pipe()
        pid = os.fork()
        if pid == 0:
            here.close()
            for other in self._processes:
                other.close()
            _Child(self._session, number, there).main()
        there.close()
        self._processes[here] = _Process(number, pid, here)

    def _receive(self, process: _Process) -> None:
        message = None
        with suppress(EOFError, ConnectionResetError):
            message = process.connection.recv()
        if message is None:
            self._ended(process)
            return
        name, values = message
        hook = self._config.hook
        if name == "next":
            following = self._pieces.popleft() if self._pieces else []
            process.waiting += following
            process.connection.send(following)
        elif name == "report":
            report = hook.pytest_report_from_serializable(config=self._config, data=values)
            report.node = process.node
            hook.pytest_runtest_logreport(report=report)
        elif name == "logstart":
            process.started = True
            hook.pytest_runtest_logstart(**values)
        elif name == "logfinish":
            process.waiting.pop(0)
            process.started = False
            hook.pytest_runtest_logfinish(**values)
        else:
            (message, category, *place), values = values
            shown = warnings.WarningMessage(message, type(category, (Warning,), {}), *place)
            hook.pytest_warning_recorded.call_historic(kwargs={"warning_message": shown, **values})

    def _ended(self, process: _Process) -> None:
        """Take a process off the list. If it has not run all of its tests, report that, and let another one run the rest."""
        _, status = os.waitpid(process.pid, 0)
        process.connection.close()
        del self._processes[process.connection]
        code = os.waitstatus_to_exitcode(status)
        if code == 0 and not process.waiting:
            return
        if process.started:
            item = self._session.items[process.waiting.pop(0)]
            message = f"process {process.number} ended with {code} while it ran {item.nodeid}"
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", message, "call")
            self._config.hook.pytest_runtest_logreport(report=report)
            self._config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        else:
            self._session.shouldstop = f"process {process.number} ended with {code} between two tests"
        if process.waiting and not self._session.shouldfail:
            self._pieces.appendleft(process.waiting)
            self._fork(process.number)


class _Child:
    """The forked process: runs pieces, and sends what pytest's hooks receive."""

    def __init__(self, session: pytest.Session, number: int, connection: Connection) -> None:
        self._session, self._config, self._number, self._connection = session, session.config, number, connection
        self._running = False

    def main(self) -> NoReturn:
        """Run pieces until there are none, and end the process."""
        code = 1
        try:
            self._set_up()
            self._run_pieces()
            code = 0
        except KeyboardInterrupt:
            pass
        except BaseException:
            traceback.print_exc()
        finally:
            # The terminal and the parent both interrupt. Fixtures must stop their servers nevertheless.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self._session._setupstate.teardown_exact(None)
                atexit._run_exitfuncs()
            except BaseException:
                code = 1
                traceback.print_exc()
            # Without the interpreter's own end, which would look at each object of the collection.
            os._exit(code)

    def _set_up(self) -> None:
        """Replace what processes must not share: random numbers, the temporary folder, captured output, and the terminal."""
        random.seed()
        atexit._clear()  # the parent's own files, which it removes itself
        plugins = self._config.pluginmanager
        factory = self._config._tmp_path_factory  # type: ignore[attr-defined]
        factory._basetemp = factory.getbasetemp() / f"process-{self._number}-{os.getpid()}"
        factory._basetemp.mkdir(mode=0o700)
        capture: Any = plugins.getplugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        capture.suspend_global_capture()
        reporter: Any = plugins.getplugin("terminalreporter")
        plugins.unregister(reporter)
        plugins.register(SimpleNamespace(_tw=reporter._tw), "terminalreporter")
        plugins.register(self)

    def _run_pieces(self) -> None:
        session, items = self._session, self._session.items
        self._running = True
        waiting = deque(self._next())
        while waiting:
            item = items[waiting.popleft()]
            if not waiting:
                # Before the last test of a piece runs, because that test's end keeps the fixtures of the next test.
                waiting.extend(self._next())
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=items[waiting[0]] if waiting else None)
            if session.shouldfail or session.shouldstop:
                return

    def _next(self) -> Piece:
        self._send("next")
        found: Piece = self._connection.recv()
        return found

    def _send(self, name: str, values: Any = None) -> None:
        self._connection.send((name, values))

    @pytest.hookimpl
    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._send("logstart", {"nodeid": nodeid, "location": location})

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._send("report", self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    @pytest.hookimpl
    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self._send("logfinish", {"nodeid": nodeid, "location": location})

    @pytest.hookimpl
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any) -> None:
        # pytest repeats the warnings of the collection for each new plugin.
        if self._running:
            text = (str(warning_message.message), warning_message.category.__name__, warning_message.filename, warning_message.lineno)
            self._send("warning", (text, {"when": when, "nodeid": nodeid, "location": location}))
