"""Secret values, which cannot be printed, formatted, pickled or serialised to JSON, and the files that hold them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from cleanroom.errors import InvalidInput, NotFound, Refused

# Imported on use: commands read secrets without pydantic.
if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import core_schema


class Secret:
    """Secret bytes. Only :meth:`reveal` and :meth:`reveal_text` return them, so that every use can be found by name."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes. Call it where they are used, and do not keep the result."""
        return self._value

    def reveal_text(self) -> str:
        """Return the bytes as UTF-8 text."""
        return self._value.decode("utf-8")

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        import hmac

        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")

    def __len__(self) -> int:
        return len(self._value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        from pydantic_core import core_schema

        def refuse(value: Any) -> NoReturn:
            raise TypeError("a Secret cannot be serialised")

        return core_schema.is_instance_schema(cls, serialization=core_schema.plain_serializer_function_ser_schema(refuse))


def read_secret_file(path: str | os.PathLike[str], *, what: str = "secret") -> Secret:
    """Read a secret from a file that only its owner can read.

    Raises:
        NotFound: ``SecretFileNotFound``.
        Refused: ``SecretFileTooOpen`` if group or others can read or write the file, or if it is not a regular file;
            ``SecretFileUnreadable``.
        InvalidInput: ``SecretEmpty``, ``SecretFileIsFolder``.
    """
    file = Path(path)
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(
            "SecretFileNotFound", f"{what}: the file {file} does not exist.", hint="Check the path in the settings or the command."
        ) from error
    except OSError as error:
        raise Refused(
            "SecretFileUnreadable", f"{what}: {file} cannot be read.", cause=error.strerror, hint="Check its owner and mode (0600)."
        ) from error
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidInput("SecretFileIsFolder", f"{what}: {file} is a directory, not a file.", hint="Use a file of mode 0600.")
    with os.fdopen(fd, "rb") as handle:
        mode = os.fstat(handle.fileno())
        if not stat.S_ISREG(mode.st_mode) or mode.st_mode & 0o077:
            raise Refused(
                "SecretFileTooOpen",
                f"{what}: {file} has mode {stat.filemode(mode.st_mode)}; a secret must be a regular file that only its owner can read.",
                hint=f"chmod 600 {file}",
            )
        value = handle.read()
    if not value.strip():
        raise InvalidInput("SecretEmpty", f"{what}: {file} is empty.", hint="Write the secret to the file.")
    return Secret(value)


def require_private_folder(folder: Path) -> None:
    """Require that only its owner can enter ``folder``. A folder that does not exist passes.

    Another user who can write to a folder can replace the files in it, whatever their own mode is.

    Raises:
        Refused: ``KeyStoreTooOpen``.
    """
    try:
        found = folder.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
        raise Refused(
            "KeyStoreTooOpen",
            f"key folder {folder} has mode {stat.filemode(found.st_mode)} and belongs to user {found.st_uid}; "
            f"it must be a folder of mode 0700 that belongs to user {os.geteuid()}.",
            hint=f"chmod 700 {folder}. If other users could write to it, replace the keys in it.",
        )


def make_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents, each with mode 0700. ``Path.mkdir`` gives that mode only to the last one."""
    for missing in [each for each in (*reversed(folder.parents), folder) if not each.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)


def write_secret_file(path: str | os.PathLike[str], value: bytes) -> None:
    """Write a secret atomically to a file of mode 0600. An existing file is replaced completely or not at all; new folders are private."""
    file = Path(path)
    make_private_folder(file.parent)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as handle:
            handle.write(value)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
