"""The local files that an upload stores, and the names that they get within the dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from cleanroom.documents.dataset import SUFFIXES, DatasetSchema
from cleanroom.errors import InvalidInput, NotFound

_DAY = re.compile(r"^\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class SourceFile:
    """A local file and its path within the dataset."""

    path: Path
    name: str
    size: int


def is_day(text: str) -> bool:
    """Return whether ``text`` names a day partition: a valid date ``yyyy-MM-dd``."""
    if not _DAY.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def find_sources(sources: Sequence[Path], schema: DatasetSchema) -> list[SourceFile]:
    """Return the files of ``sources``.

    A file keeps its name, and the files of a folder keep their paths below it. Names that begin with ``.`` or ``_``
    are skipped.

    Args:
        sources: Files and folders.
        schema: The dataset's schema, which determines format and partitions.

    Raises:
        NotFound: ``SourceNotFound``.
        InvalidInput: ``SourceEmpty``, ``SourceFormatMismatch`` (the suffix does not belong to the schema's format),
            ``SourceNotDayPartitioned`` (a file outside of ``yyyy-MM-dd/``), ``SourceNameTwice``.
    """
    found: dict[str, SourceFile] = {}
    for source in sources:
        for path, name in _files_of(source, schema):
            if not is_data(name):
                continue
            _require_name(name, path, schema)
            if name in found:
                raise InvalidInput(
                    "SourceNameTwice", f"source: {path} and {found[name].path} would both become {name!r}.", hint="Rename one of the files."
                )
            found[name] = SourceFile(path, name, path.stat().st_size)
    if not found:
        raise InvalidInput("SourceEmpty", "source: no data file found.", hint="Name files, or folders that contain files.")
    return list(found.values())


def is_data(name: str) -> bool:
    """Return whether a path within a dataset is that of a data file: no part of it begins with ``.`` or ``_``."""
    return not any(part.startswith((".", "_")) for part in name.split("/"))


def _files_of(source: Path, schema: DatasetSchema) -> list[tuple[Path, str]]:
    if source.is_dir():
        return [(path, path.relative_to(source).as_posix()) for path in sorted(source.rglob("*")) if path.is_file()]
    if source.is_file():
        # A single file of a day's folder keeps its day.
        keeps_day = schema.partitioned_by == "day" and _DAY.fullmatch(source.parent.name)
        return [(source, f"{source.parent.name}/{source.name}" if keeps_day else source.name)]
    raise NotFound("SourceNotFound", f"source: {source} does not exist.", hint="Name an existing file or folder.")


def _require_name(name: str, path: Path, schema: DatasetSchema) -> None:
    if not name.lower().endswith(SUFFIXES[schema.format]):
        raise InvalidInput(
            "SourceFormatMismatch",
            f"source: {path} does not end in {' or '.join(SUFFIXES[schema.format])}, as format {schema.format!r} requires.",
            hint="Rename the file, or choose another format.",
        )
    if schema.partitioned_by == "day" and not is_day(name.split("/")[0] if "/" in name else ""):
        raise InvalidInput(
            "SourceNotDayPartitioned",
            f"source: {path} would become {name!r}, which is not in a folder yyyy-MM-dd. The dataset is partitioned by day.",
            hint="Arrange the files as 2013-01-31/part.csv and name the folder above.",
        )
