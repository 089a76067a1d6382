"""Ending a command's process.

The Temporal SDK's native threads may still call into Python while the interpreter is being torn down, which then aborts with "Fatal Python
error: PyGILState_Release" and exit code 134 (temporalio/sdk-python issue 300, open). A command's exit code is a promise, so commands end
without that teardown: exit handlers run, streams are flushed, and the process is left.
"""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def run_and_exit(command: Callable[[], object]) -> NoReturn:
    """Run ``command`` and end the process with its exit code (130 when interrupted, 1 after an exception that nobody handled)."""
    code = 0
    try:
        command()
    except SystemExit as stop:
        code = _exit_code(stop)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        # The process ends here: what nobody caught is shown as the interpreter would have shown it.
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            # A reader that has gone away (`| head`) is no reason for another exit code.
            pass
        except OSError:
            code = code or 1
    os._exit(code)


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code
    sys.stderr.write(f"{stop.code}\n")
    return 1
