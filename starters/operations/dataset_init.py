"""Writes the YAML file of a dataset from one of its files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom.documents.specs import DatasetSpec, load_dataset_spec
from cleanroom.errors import Conflict, InvalidInput
from cleanroom.identifiers import require_name

if TYPE_CHECKING:
    from cleanroom.datasets.inferred import InferredFile
    from cleanroom.publishing.dataset_template import StoreKind, Suggestion


@dataclass(frozen=True)
class WrittenDataset:
    """The file that was written, what it says, and why."""

    file: Path
    spec: DatasetSpec
    found: InferredFile
    rules: Suggestion


def write_dataset_file(
    source: Path, target: Path | None, *, name: str | None = None, store: StoreKind = "azure-blob", header: bool = True, force: bool = False
) -> WrittenDataset:
    """Infer a dataset from a file of rows, and write its YAML file.

    Args:
        source: A file of CSV, JSON lines or Parquet.
        target: The YAML file; by default the name of the dataset, in the current folder.
        name: Name of the dataset; by default from the name of ``source``.
        store: The kind of the owner's store.
        header: Whether the first line of a CSV file names the columns.
        force: Whether to replace an existing file.

    Raises:
        NotFound, InvalidInput: See :func:`cleanroom.datasets.inference.infer_file`; ``InvalidName``, ``FileNotWritable``.
        Conflict: ``FileExists``.
    """
    from cleanroom.datasets.inference import infer_file
    from cleanroom.publishing.dataset_template import dataset_name, render_template, suggest

    chosen = require_name("name", name) if name is not None else dataset_name(source.stem)
    file = target if target is not None else Path(f"{chosen}.yaml")
    found = infer_file(source, header=header)
    if file.exists() and (not force or not file.is_file()):
        hint = "Choose another file with --to, or replace it with --force." if file.is_file() else "Choose a file with --to."
        raise Conflict("FileExists", f"{file}: exists already.", hint=hint)
    text = render_template(found, chosen, store, source.name)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "dataset.yaml"
        draft.write_text(text, encoding="utf-8")
        spec = load_dataset_spec(draft)
    try:
        with file.open("w" if force else "x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise Conflict(
            "FileExists", f"{file}: exists already.", hint="Choose another file with --to, or replace it with --force."
        ) from error
    except OSError as error:
        hint = "Choose a folder that exists and that you may write to, with --to."
        raise InvalidInput("FileNotWritable", f"{file}: cannot be written.", cause=error.strerror, hint=hint) from error
    return WrittenDataset(file, spec, found, suggest(found))
