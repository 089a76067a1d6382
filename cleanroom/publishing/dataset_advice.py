"""Remarks on the file of a dataset that is valid: rules that have no effect, and rules that an owner may have forgotten."""

from __future__ import annotations

from collections.abc import Iterator

from cleanroom.documents.dataset import DEFAULT_SHARE_PERCENT
from cleanroom.documents.specs import DatasetSpec


def remarks(spec: DatasetSpec) -> tuple[str, ...]:
    """Return remarks for the owner. None of them prevents publishing."""
    return tuple(_output_remarks(spec) if spec.access == "write" else _input_remarks(spec))


def _input_remarks(spec: DatasetSpec) -> Iterator[str]:
    floors, allowed = spec.privacy, spec.allowed_columns or tuple(spec.columns)
    identity = floors.identity_column
    if not floors.min_group_size:
        yield "privacy.minGroupSize is 0: a query may return single rows of the allowed columns"
    if floors.max_share_percent is not None and not floors.min_group_size:
        yield "privacy.maxSharePercent has no effect without privacy.minGroupSize"
    if identity is not None and identity not in allowed:
        yield f"privacy.{floors.member('identity_column')} {identity} is not in allowedColumns: queries cannot join on it"
    dimensions = floors.member("allowed_output_columns")
    for member, listed in ((dimensions, floors.allowed_output_columns), ("measures", floors.measures)):
        if hidden := [name for name in listed or () if name not in allowed]:
            yield f"privacy.{member}: queries cannot read {', '.join(hidden)}, because allowedColumns does not list them"
    if identity is not None and identity in (floors.allowed_output_columns or ()):
        yield f"privacy.{dimensions}: no result contains {identity}, because it is the identity"
    if floors.min_group_size and floors.max_share_percent is None and floors.measures != ():
        yield f"privacy.maxSharePercent is {DEFAULT_SHARE_PERCENT} by default: no person contributes more of a sum"
    if spec.manifest == "optional":
        yield "manifest is optional: the operator of the store can add or remove objects unnoticed"


def _output_remarks(spec: DatasetSpec) -> Iterator[str]:
    if spec.privacy != type(spec.privacy)():
        yield "privacy has no effect on an output dataset: floors belong to the inputs"
    if spec.unique_columns is not None:
        yield "uniqueColumns has no effect on an output dataset"
    if spec.partitioned_by is not None:
        yield "partitionedBy has no effect on an output dataset: a result has its own folder"
