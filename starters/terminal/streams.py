"""Makes the standard streams tolerant, so that printing cannot fail a command whose work is done."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Any, Final, TextIO

_ASCII_FOR_DRAWING: Final = str.maketrans("▇█━─│┃✔✓✘▶·…—’“”", '##--||++x>..-\'""')
_ENCODING_ERRORS: Final = "cleanroom.plain"
"""Name of the error handler that is registered with :mod:`codecs`."""


def tolerant_streams() -> None:
    """Replace ``sys.stdin``, ``sys.stdout`` and ``sys.stderr`` where they could raise.

    * Characters that the stream's encoding lacks (``LC_ALL=C``) are replaced by ASCII.
    * Output to a reader that has exited (``| head``) is discarded.
    * A closed stream (``>&-``) becomes an empty one.
    """
    codecs.register_error(_ENCODING_ERRORS, _replace_with_ascii)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = _tolerant(sys.stdout)
    sys.stderr = _tolerant(sys.stderr)


def _replace_with_ascii(error: UnicodeError) -> tuple[str, int]:
    """Handle an encoding error: drawing characters become similar ASCII characters, all others question marks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII_FOR_DRAWING)
    return "".join(character if character.isascii() else "?" for character in text), error.end


class _Pipe(io.FileIO):
    """A file descriptor that discards output after its reader has exited."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _tolerant(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w")
    if type(stream) is not io.TextIOWrapper:
        # Replaced by the calling program, for example by pytest's capture.
        return stream
    if type(getattr(stream.buffer, "raw", stream.buffer)) is io.FileIO:
        stream.flush()
        pipe = _Pipe(stream.fileno(), "wb", closefd=False)
        # PYTHONUNBUFFERED leaves out the buffered layer; so does this stream then.
        file = io.BufferedWriter(pipe) if isinstance(stream.buffer, io.BufferedWriter) else pipe
        return io.TextIOWrapper(
            file,
            encoding=stream.encoding,
            errors=_ENCODING_ERRORS,
            line_buffering=stream.line_buffering,
            write_through=file is pipe,
        )
    stream.reconfigure(errors=_ENCODING_ERRORS)
    return stream
