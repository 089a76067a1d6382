"""Shows an owner what the store has of the owner's dataset: objects, first rows, statistics.

The owner's machine keeps a copy of the file of each dataset that it uploaded or published, because the document in governance does not
say how to sign in to the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cleanroom.documents.specs import DatasetSpec, load_dataset_spec
from cleanroom.errors import CleanRoomError, InvalidInput, NotFound, PreconditionFailed, Refused
from cleanroom.identifiers import require_name
from cleanroom.joining import hashed
from cleanroom.secret import require_private_folder, write_secret_file
from starters.operations.session import Session

if TYPE_CHECKING:
    from cleanroom.clients.objects import ObjectStore
    from cleanroom.datasets.manifest import Manifest
    from cleanroom.datasets.readers import Rows
    from cleanroom.secret import Secret

STATISTICS_ROWS = 100_000
"""Rows from which the statistics of columns are computed."""


def remember_own_dataset(session: Session, spec: DatasetSpec) -> None:
    """Keep a copy of the file of a dataset in the owner's key folder. It contains references to secrets, never a secret."""
    write_secret_file(_copy(session, spec.name), spec.model_dump_json(by_alias=True, exclude_none=True).encode())


def _copy(session: Session, name: str) -> Path:
    folder = hashed("own-datasets", session.collaboration, prefix="datasets", max_length=100, readable=session.collaboration)
    return session.settings.keys_dir.expanduser() / folder / f"{require_name('dataset', name)}.json"


def own_spec(session: Session, name: str, file: Path | None = None) -> DatasetSpec:
    """Return the file of a dataset: ``file``, or the copy from its last upload or publication on this machine.

    Raises:
        NotFound: ``DatasetFileUnknown`` without a copy.
        InvalidInput: ``DatasetFileMismatch`` if the file describes another dataset.
    """
    if file is not None:
        spec = load_dataset_spec(file)
        if spec.name != name:
            raise InvalidInput(
                "DatasetFileMismatch", f"{file}: it describes dataset {spec.name!r}, not {name!r}.", hint="Pass its own file."
            )
        return spec
    path = _copy(session, name)
    if path.exists():
        require_private_folder(path.parent)
        try:
            return DatasetSpec.model_validate_json(path.read_bytes())
        except ValidationError:
            # A copy of another version of this program.
            path.unlink()
    raise NotFound(
        "DatasetFileUnknown",
        f"dataset {name!r}: this machine has neither uploaded nor published it.",
        hint="Pass its YAML file with --file. `cleanroom dataset show NAME` shows the document of any dataset.",
    )


async def require_owner(session: Session, name: str) -> None:
    """Refuse a dataset that another collaborator has published. A dataset that is not published belongs to whoever has its key.

    Raises:
        Refused: ``NotDatasetOwner``.
    """
    async with session.governance() as client:
        document = await session.documents(client).find(require_name("dataset", name))
    if document is not None and document.proposer_id != session.user_id:
        raise Refused(
            "NotDatasetOwner",
            f"dataset {name!r} belongs to {session.party_of(document.proposer_id)}: only its owner has the key of its rows.",
            hint="`cleanroom dataset show NAME` shows its columns and floors. `cleanroom query rehearse FILE` uses synthetic rows.",
        )


def _open(session: Session, spec: DatasetSpec) -> tuple[ObjectStore, Secret | None]:
    """Open the store of a dataset and its key. Both fail if the dataset has never been uploaded from this machine."""
    from cleanroom.clients.owned import open_store
    from cleanroom.datasets.keystore import KeyStore

    keys = KeyStore(session.settings.keys_dir, session.collaboration)
    key = keys.get(spec.name) if spec.encryption == "CSE" else None
    return open_store(session.settings, spec, customer_key=lambda: keys.get(spec.name)), key


def _manifest(session: Session, spec: DatasetSpec, store: ObjectStore, key: Secret | None) -> Manifest | None:
    from cleanroom.datasets.manifest import read_manifest

    try:
        return read_manifest(store, key, collaboration=session.collaboration, dataset=spec.name)
    except NotFound:
        # The container or bucket does not exist yet.
        return None


def read_own_manifest(session: Session, name: str) -> Manifest | None:
    """Return the manifest of an own dataset, or None if nothing was uploaded.

    Raises:
        CleanRoomError: The file of the dataset is unknown, or its store cannot be read.
    """
    spec = own_spec(session, name)
    store, key = _open(session, spec)
    return _manifest(session, spec, store, key)


def _complete(session: Session, spec: DatasetSpec) -> tuple[ObjectStore, Secret | None, Manifest]:
    if spec.access == "write":
        raise PreconditionFailed(
            "DatasetIsOutput",
            f"dataset {spec.name!r} is an output: it has the results of runs.",
            hint="`cleanroom run result RUN --dataset FILE` decrypts the result of a run.",
        )
    try:
        store, key = _open(session, spec)
    except NotFound as error:
        if error.code != "DatasetKeyNotFound":
            raise
        raise _nothing(spec) from error
    manifest = _manifest(session, spec, store, key)
    if manifest is None or not manifest.objects:
        raise _nothing(spec)
    return store, key, manifest


def _nothing(spec: DatasetSpec) -> PreconditionFailed:
    return PreconditionFailed(
        "DatasetEmpty", f"dataset {spec.name!r}: nothing was uploaded.", hint="Run `cleanroom dataset upload FILE ROWS` first."
    )


def list_objects(session: Session, spec: DatasetSpec) -> list[dict[str, Any]]:
    """Return the objects of an own dataset: those of its manifest, and those that the store has besides.

    Raises:
        PreconditionFailed: ``DatasetEmpty``, ``DatasetIsOutput``.
        Refused: ``CiphertextInvalid`` if the manifest was sealed with another key.
    """
    from cleanroom.datasets.manifest import MANIFEST_NAME

    store, _, manifest = _complete(session, spec)
    stored = {item.key: item.size for item in store.list() if item.key != MANIFEST_NAME}
    rows = []
    for name in sorted({*stored, *manifest.objects}):
        entry = manifest.objects.get(name)
        state = "stored" if entry is not None and stored.get(name) == entry.size else "not in the manifest" if entry is None else "missing"
        state = "upload not complete" if state == "stored" and not manifest.complete else state
        size = stored.get(name, 0)
        rows.append({"object": name, "rows": entry.rows if entry is not None else None, "stored_bytes": size, "state": state})
    return rows


def preview(session: Session, spec: DatasetSpec, limit: int) -> tuple[Rows, int]:
    """Return the first rows of an own dataset, decrypted with the owner's key, and the number of all rows. See :func:`list_objects`."""
    from cleanroom.datasets.owned_rows import first_rows

    store, key, manifest = _complete(session, spec)
    table = first_rows(store, key, manifest, spec.dataset_schema(), collaboration=session.collaboration, limit=limit)
    return table, manifest.rows()


def statistics(session: Session, spec: DatasetSpec) -> dict[str, Any]:
    """Return what an own dataset contains: totals of its manifest, and empty and different values of each column in the first rows."""
    from cleanroom.datasets.owned_rows import first_rows

    store, key, manifest = _complete(session, spec)
    table = first_rows(store, key, manifest, spec.dataset_schema(), collaboration=session.collaboration, limit=STATISTICS_ROWS)
    columns = {
        name: {"type": kind, "empty": table.column(name).null_count, "different": len(table.column(name).unique().drop_null())}
        for name, kind in spec.columns.items()
    }
    record: dict[str, Any] = {
        "dataset": spec.name,
        "complete": manifest.complete,
        "objects": len(manifest.objects),
        "rows": manifest.rows(),
        "stored_bytes": manifest.stored_bytes(),
        "manifest_digest": manifest.digest(),
        "examined_rows": table.num_rows,
        "columns": columns,
    }
    identity, floor = spec.privacy.identity_column, spec.privacy.min_group_size
    if identity is not None:
        persons = columns[identity]["different"]
        record |= {"persons": persons, "min_group_size": floor, "floor_reached": persons >= floor}
    return record


def upload_warnings(session: Session, spec: DatasetSpec) -> list[str]:
    """Return what an owner should know before publishing: whether an input has rows. A store that cannot be read gives a warning too."""
    if spec.access == "write":
        return []
    try:
        _, _, manifest = _complete(session, spec)
    except CleanRoomError as error:
        if error.code == "DatasetEmpty":
            return [f"dataset {spec.name}: nothing was uploaded yet, so runs fail until `cleanroom dataset upload` has stored rows"]
        return [f"dataset {spec.name}: could not look for uploaded rows ({error.code})"]
    if not manifest.complete:
        return [f"dataset {spec.name}: its upload is not complete; repeat `cleanroom dataset upload`"]
    return []
