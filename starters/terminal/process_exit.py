"""Ends a command's process without tearing down the interpreter.

Native threads of the Temporal SDK can call into Python during the teardown. The interpreter then aborts with "Fatal Python error:
PyGILState_Release" and exit code 134 (https://github.com/temporalio/sdk-python/issues/300). To keep the documented exit codes, a
command runs its exit handlers, flushes its streams, and calls :func:`os._exit`.
"""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def run_and_exit(command: Callable[[], object]) -> NoReturn:
    """Run ``command`` and exit with its exit code: 130 after Ctrl-C, 1 after an unhandled exception."""
    code = 0
    try:
        command()
    except SystemExit as stop:
        code = _exit_code(stop)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        # Print the traceback as the interpreter would.
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            # A closed reader (`| head`) does not change the exit code.
            pass
        except OSError:
            code = code or 1
    os._exit(code)


def _exit_code(stop: SystemExit) -> int:
    """The exit code of ``stop``, by the interpreter's rules: text is printed and means 1."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code
    sys.stderr.write(f"{stop.code}\n")
    return 1
