"""Rules that a dataset must follow to be usable by the query gate, the stores and Spark.

The YAML file of an owner and the document in governance follow the same rules, so a dataset that its owner can write is never refused
later because of its text. Every function returns all problems that it finds, each with the value and what to do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from cleanroom.identifiers import is_name

COLUMN_NAME: Final = re.compile(r"[ -_a-~]{1,128}")
"""Names of columns: printable ASCII without the backtick, which quotes them in SQL."""
RESERVED_PREFIX: Final = "__cr_"
"""Prefix of names that only the query gate writes."""

SECRET_VARIABLE_PREFIX: Final = "CLEANROOM_SECRET_"  # noqa: S105 - the name of a variable
"""Required prefix of environment variables in references, so that a forged reference cannot read others."""
_BUCKET_PREFIXES: Final = ("xn--", "sthree-", "amzn-s3-demo-")
_BUCKET_SUFFIXES: Final = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
_ADDRESS: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MAX_SUBDIRECTORY: Final = 512
"""Longest subdirectory in bytes. Stores allow 1024 for the whole key of an object, with the path of its file."""


def column_problems(names: Iterable[str]) -> list[str]:
    """Return what is wrong with the names of a dataset's columns."""
    names = list(names)
    problems = []
    for name in names:
        if not COLUMN_NAME.fullmatch(name):
            problems.append(f"column {name[:140]!r} must have 1 to 128 printable ASCII characters without backticks; rename it")
        elif name.lower().startswith(RESERVED_PREFIX):
            problems.append(f"column {name!r} begins with {RESERVED_PREFIX}, which is reserved; rename it")
    # Spark's column names are case-insensitive: `Email` could replace `email` where only one of them is allowed.
    if twice := repeated(names):
        problems.append(f"field names must be unique, ignoring case; rename one of: {', '.join(twice)}")
    return problems


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names of which there is another one, ignoring case."""
    names = list(names)
    counts = Counter(name.lower() for name in names)
    return sorted({name for name in names if counts[name.lower()] > 1})


def list_problems(schema: Iterable[str], lists: Mapping[str, Iterable[str] | None]) -> list[str]:
    """Return what is wrong with lists of column names.

    Args:
        schema: The columns of the dataset.
        lists: Column names by the member that contains them; None for an absent member.
    """
    names = list(schema)
    spelled = {name.lower(): name for name in names}
    problems = []
    for member, listed in lists.items():
        used = list(listed or ())
        if unknown := [name for name in used if name not in names]:
            meant = [f"{name} (the schema has {spelled[name.lower()]!r})" if name.lower() in spelled else name for name in unknown]
            problems.append(f"{member}: no such columns in the schema: {', '.join(meant)}")
        if twice := sorted({name for name in used if used.count(name) > 1}):
            problems.append(f"{member} names a column twice: {', '.join(twice)}")
    return problems


def subdirectory_problem(value: str) -> str | None:
    """Return what is wrong with a folder within a container or bucket, or None."""
    parts = value.split("/") if value else []
    if value.startswith("/") or "\\" in value or any(part in ("", ".", "..") for part in parts):
        return f"subdirectory {value!r} must be a relative path without empty, '.' or '..' parts"
    if _CONTROL.search(value):
        return f"subdirectory {value!r} contains a control character"
    if len(value.encode("utf-8", "surrogatepass")) > MAX_SUBDIRECTORY:
        return f"subdirectory has more than {MAX_SUBDIRECTORY} bytes"
    return None


def container_problem(name: str) -> str | None:
    """Return what is wrong with the name of a container beyond its characters, or None.

    https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata#container-names
    """
    return f"container {name!r} has two hyphens in a row, which Azure refuses" if "--" in name else None


def bucket_problem(name: str) -> str | None:
    """Return what is wrong with the name of a bucket beyond its characters, or None.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    if ".." in name:
        return f"bucket {name!r} has two periods in a row, which S3 refuses"
    if _ADDRESS.fullmatch(name):
        return f"bucket {name!r} looks like an IP address, which S3 refuses"
    if name.startswith(_BUCKET_PREFIXES) or name.endswith(_BUCKET_SUFFIXES):
        return f"bucket {name!r} begins or ends with a part that S3 reserves"
    return None


def reference_problem(value: str) -> str | None:
    """Return what is wrong with a reference to a connection secret, or None. The value is not part of it: it may be the secret."""
    kind, _, name = value.partition(":")
    if kind == "secret":
        return None if is_name(name) else "secret: needs a name of lower-case letters, digits and single hyphens"
    if kind == "file":
        return None if name and not _CONTROL.search(name) else "file: needs the path of a file"
    if kind == "env":
        return None if name.startswith(SECRET_VARIABLE_PREFIX) else f"env: needs a variable that begins with {SECRET_VARIABLE_PREFIX}"
    return "must be a reference (secret:NAME, file:PATH or env:NAME), not the secret itself"
