"""An authorised run: what :class:`cleanroom.runs.authority.RunAuthority` returns when all checks have passed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cleanroom.documents.dataset import DatasetDocument
from cleanroom.documents.query import QueryDocument
from cleanroom.errors import Refused
from cleanroom.runs.reader import AcceptedDocument
from cleanroom.statements.model import Decision, RunRequest


@dataclass(frozen=True)
class Dataset:
    """A dataset document that was read and checked, and the view name under which the query uses it."""

    document: AcceptedDocument
    dataset: DatasetDocument
    view: str

    @property
    def owner_id(self) -> str:
        """User ID of the owner: the user that proposed the document and accepted it alone."""
        return self.document.proposer_id


@dataclass(frozen=True)
class AuthorisedRun:
    """A run that passed :meth:`RunAuthority.authorise`, with the documents on which that result rests."""

    request: RunRequest
    token: str
    """The signed request (JWS), which is the run's identity."""
    document: AcceptedDocument
    query: QueryDocument
    inputs: tuple[Dataset, ...]
    sink: Dataset
    owners: tuple[str, ...]
    decisions: tuple[Decision, ...]
    """The owners' signed approvals, in the order of ``owners``; empty for a past run."""
    runs_left: int | None
    """How many runs the approvals leave, this one included. ``None`` means that no owner set a limit."""

    @property
    def expires(self) -> dt.datetime:
        """When the run stops being authorised: the expiry of its request or of the first approval."""
        return min([self.request.expires, *(decision.expires for decision in self.decisions)])

    @property
    def approved_by(self) -> tuple[str, ...]:
        """User IDs with an ``accepted`` ballot on the query."""
        return self.document.accepted_by

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The input datasets in the query's order, then the output dataset."""
        return (*self.inputs, self.sink)

    @property
    def identity_datasets(self) -> tuple[Dataset, ...]:
        """The datasets that pods read with their owner's managed identity."""
        return tuple(item for item in self.datasets if item.dataset.dataset_access_point.identity is not None)

    @property
    def document_ids(self) -> tuple[str, ...]:
        """IDs of the query document and of every dataset document."""
        return (self.document.id, *(item.document.id for item in self.datasets))

    def dataset(self, name: str) -> Dataset:
        """Return the dataset called ``name``.

        Raises:
            Refused: ``DatasetNotInQuery``.
        """
        for item in self.datasets:
            if item.dataset.name == name:
                return item
        raise Refused("DatasetNotInQuery", f"dataset {name!r} is not part of query {self.query.name!r}.")
