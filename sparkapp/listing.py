"""Lists the objects of a dataset that a run reads, and verifies them against the owner's manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta

from cleanroom.datasets.encryption import decode_dataset_key
from cleanroom.datasets.manifest import MANIFEST_NAME, Manifest, read_manifest
from cleanroom.datasets.sources import is_data, is_day
from cleanroom.documents.dataset import SUFFIXES, CsvDialect
from cleanroom.errors import InvalidInput, NotFound, PreconditionFailed, Refused
from cleanroom.secret import Secret
from cleanroom.spark.job import JobDataset, JobParameters
from sparkapp.pod import Pod


@dataclass(frozen=True)
class DatasetListing:
    """The objects of one dataset that a run reads, verified against the owner's manifest."""

    dataset: JobDataset
    objects: dict[str, int]
    """Stored bytes by path within the dataset."""
    unsplittable: frozenset[str]
    """CSV objects that must be read from their beginning, because a quoted value may contain a line break."""
    has_manifest: bool
    missing_days: tuple[str, ...] = ()
    """Days of the requested range without a partition. They count as empty."""
    verified: frozenset[str] = frozenset()
    """CSV objects whose quotes and line ends the owner's upload verified."""
    headers: dict[str, str | None] = field(default_factory=dict)
    """First bytes of the objects in the manifest, in hex."""
    etags: dict[str, str] = field(default_factory=dict)
    """The objects' versions. Every read demands them, so that a replaced object fails the run instead of mixing rows."""
    rows: int | None = None
    """Rows of the objects according to the manifest; None without a manifest."""

    def stored_bytes(self) -> int:
        """Return the stored bytes of all objects."""
        return sum(self.objects.values())

    def require_rows(self, found: int) -> None:
        """Compare the number of rows that were read with the manifest.

        Raises:
            Refused: ``DatasetTampered``.
        """
        if self.rows is not None and found != self.rows:
            raise Refused(
                "DatasetTampered",
                f"dataset {self.dataset.name!r}: its objects have {found} rows, and the manifest lists {self.rows}.",
                hint="The owner can upload the dataset again.",
                party=self.dataset.owner_id,
            )


def dataset_key(pod: Pod, dataset: JobDataset) -> Secret | None:
    """Return the key that opens the dataset's objects, or None if the store decrypts them (SSE, CPK).

    Raises:
        PreconditionFailed: ``DatasetKeyMissing``.
    """
    if dataset.encryption != "CSE":
        return None
    return decode_dataset_key(pod.secret(key_secret_id(dataset)))


def key_secret_id(dataset: JobDataset) -> str:
    """Return the ID of the secret with the dataset's key.

    Raises:
        PreconditionFailed: ``DatasetKeyMissing``.
    """
    if dataset.key_secret_id is None:
        raise PreconditionFailed("DatasetKeyMissing", f"job: dataset {dataset.name!r} is encrypted, but has no key secret.")
    return dataset.key_secret_id


def list_objects(pod: Pod, dataset: JobDataset, parameters: JobParameters) -> DatasetListing:
    """List the dataset's objects, verify them against its manifest, and select the requested days.

    Args:
        pod: The pod's identity.
        dataset: The dataset to read.
        parameters: The run's days. They select partitions of datasets that are partitioned by day and do not affect others.

    Raises:
        NotFound: ``DatasetEmpty``, ``NoDataInDateRange``.
        Refused: ``DatasetTampered`` if the stored objects differ from the manifest, ``CiphertextInvalid``,
            ``ManifestMissing`` if the owner requires a manifest, ``RowsNotThosePublished`` if the manifest is not
            the pinned one.
        PreconditionFailed: ``DatasetIncomplete`` while an upload is in progress.
        InvalidInput: ``DatasetNotDayPartitioned``, ``InvalidDateRange``.
    """
    store = pod.store(dataset)
    key = dataset_key(pod, dataset)
    found = [item for item in store.list() if is_data(item.key)]
    listed, etags = {item.key: item.size for item in found}, {item.key: item.etag for item in found}
    manifest = read_manifest(store, key, collaboration=pod.job().contract_id, dataset=dataset.name)
    if manifest is not None:
        _verify_against_manifest(manifest, listed, dataset)
    elif dataset.manifest != "optional" and listed:
        raise Refused(
            "ManifestMissing",
            f"dataset {dataset.name!r}: the store contains {len(listed)} objects, but no {MANIFEST_NAME} to compare them with.",
            hint="The manifest was deleted, or another tool stored the rows. The owner can upload the rows again with "
            "`cleanroom dataset upload FILE ROWS`, or publish the dataset with `manifest: optional`.",
            party=dataset.owner_id,
        )
    objects = {name: size for name, size in sorted(listed.items()) if name.lower().endswith(SUFFIXES[dataset.format])}
    if not objects:
        raise NotFound(
            "DatasetEmpty",
            f"dataset {dataset.name!r}: the store contains no {dataset.format} object and {len(listed)} other objects.",
            hint="The owner must upload the dataset.",
            party=dataset.owner_id,
        )
    missing: tuple[str, ...] = ()
    if dataset.partitioned_by == "day":
        objects, missing = _select_days(objects, dataset, parameters)
    entries = manifest.objects if manifest else {}
    verified: frozenset[str] = frozenset()
    unsplittable: frozenset[str] = frozenset()
    if dataset.format == "csv":
        dialect = dataset.csv_dialect or CsvDialect()
        verified = frozenset(name for name in objects if name in entries and entries[name].csv == dialect)
        unsplittable = frozenset(name for name in objects if name not in verified or not entries[name].splittable)
    headers = {name: entry.header for name, entry in entries.items()}
    rows = sum(entries[name].rows for name in objects) if manifest else None
    return DatasetListing(dataset, objects, unsplittable, manifest is not None, missing, verified, headers, etags, rows)


def _verify_against_manifest(manifest: Manifest, listed: dict[str, int], dataset: JobDataset) -> None:
    if manifest.dataset != dataset.name:
        raise _tampered(dataset, MANIFEST_NAME, "the manifest belongs to another dataset")
    if not manifest.complete:
        raise PreconditionFailed(
            "DatasetIncomplete",
            f"dataset {dataset.name!r}: its upload is not complete.",
            hint="The owner must finish the upload.",
            party=dataset.owner_id,
        )
    if dataset.manifest_digest not in (None, manifest.digest()):
        raise Refused(
            "RowsNotThosePublished",
            f"dataset {dataset.name!r}: its rows are not those that the owner published and the owners approved. "
            f"The digest of the manifest is {manifest.digest()}, the document has {dataset.manifest_digest}.",
            hint="The owner uploaded again, or an earlier upload was restored. Publish other rows as another dataset.",
            party=dataset.owner_id,
        )
    for name, entry in manifest.objects.items():
        if listed.get(name) != entry.size:
            raise _tampered(dataset, name, "it is missing" if name not in listed else "its size differs from the manifest")
    if extra := sorted(set(listed) - set(manifest.objects)):
        raise _tampered(dataset, extra[0], "it is not in the manifest")


def _tampered(dataset: JobDataset, name: str, why: str) -> Refused:
    return Refused(
        "DatasetTampered",
        f"dataset {dataset.name!r}, object {name!r}: {why}.",
        hint="The store was changed, or another upload is in progress. The owner can upload the dataset again.",
        party=dataset.owner_id,
        details={"object": name},
    )


def _select_days(objects: dict[str, int], dataset: JobDataset, parameters: JobParameters) -> tuple[dict[str, int], tuple[str, ...]]:
    for name in objects:
        if not is_day(name.split("/")[0]):
            raise InvalidInput(
                "DatasetNotDayPartitioned",
                f"dataset {dataset.name!r}: object {name!r} is not in a folder yyyy-MM-dd.",
                hint="The owner must store each day's objects in a folder such as 2013-01-31.",
            )
    if parameters.start_date is None and parameters.end_date is None:
        return objects, ()
    try:
        first, last = date.fromisoformat(parameters.start_date or ""), date.fromisoformat(parameters.end_date or "")
    except ValueError:
        # A half-open range must not select all data.
        raise InvalidInput(
            "InvalidDateRange",
            f"parameters: {parameters.start_date} to {parameters.end_date} is not a range of days yyyy-MM-dd.",
            hint="Give both the first and the last day, or neither.",
        ) from None
    wanted = {(first + timedelta(days=offset)).isoformat() for offset in range((last - first).days + 1)}
    chosen = {name: size for name, size in objects.items() if name.split("/")[0] in wanted}
    if not chosen:
        raise NotFound(
            "NoDataInDateRange",
            f"dataset {dataset.name!r}: no day from {parameters.start_date} to {parameters.end_date} has a partition.",
            hint="Choose other days. An empty range never selects all data.",
        )
    return chosen, tuple(sorted(wanted - {name.split("/")[0] for name in chosen}))
