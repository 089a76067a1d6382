"""A Spark session and its frames that note what is asked of them, for tests of the payload's logic without a JVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql.types import DataType, LongType, StringType, StructField, StructType


@dataclass(frozen=True)
class Expression:
    """A column expression as text."""

    text: str

    def __ge__(self, other: object) -> Expression:
        return Expression(f"{self.text} >= {other}")

    def cast(self, kind: str) -> Expression:
        return Expression(f"CAST({self.text} AS {kind})")

    def alias(self, name: str) -> Expression:
        return Expression(f"{self.text} AS {name}")


@dataclass
class Frame:
    """A frame that a session returned for ``source``; ``rows`` are counted only on request."""

    source: str
    spark: Session
    types: tuple[tuple[str, DataType], ...] = (("n", LongType()), ("s", StringType()))
    rows: Any = 0
    table: pa.Table | None = None
    filters: tuple[str, ...] = ()

    @property
    def schema(self) -> StructType:
        return StructType([StructField(name, kind) for name, kind in self.types])

    def filter(self, condition: Expression | str) -> Frame:
        text = condition if isinstance(condition, str) else condition.text
        return Frame(self.source, self.spark, self.types, self.rows, self.table, (*self.filters, text))

    def select(self, *columns: Expression) -> list[str]:
        return [column.text for column in columns]

    def createOrReplaceTempView(self, name: str) -> None:
        self.spark.steps.append(f"view {name} = {self.source}" + "".join(f" WHERE {text}" for text in self.filters))
        self.spark.views[name.lower()] = self

    def persist(self, level: Any = None) -> Frame:
        self.spark.steps.append(f"persist {self.source}")
        return self

    def count(self) -> int:
        self.spark.steps.append(f"count {self.source}")
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows

    def toArrow(self) -> pa.Table:
        assert self.table is not None
        return self.table

    def mapInArrow(self, function: Callable[[Any], Any], ddl: str) -> Mapped:
        return Mapped(self, function, ddl)


@dataclass
class Mapped:
    """A frame whose tasks run ``function`` over the partitions of ``source``; :meth:`collect` runs them here."""

    source: Frame
    function: Callable[[Any], Any]
    ddl: str
    partitions: list[list[pa.RecordBatch]] = field(default_factory=list)

    def persist(self, level: Any) -> Mapped:
        self.source.spark.steps.append(f"persist {level}")
        return self

    def count(self) -> int:
        return sum(batch.num_rows for batch in self.function(iter(self.source.table.to_batches() if self.source.table else [])))

    def createOrReplaceTempView(self, name: str) -> None:
        self.source.spark.views[name.lower()] = self

    @property
    def columns(self) -> list[str]:
        return [part.split("`")[1] for part in self.ddl.split(", ")]

    def collect(self) -> list[dict[str, Any]]:
        assert self.source.table is not None
        batches = [[batch] for batch in self.source.table.to_batches()]
        return [row for partition in batches for found in self.function(iter(partition)) for row in found.to_pylist()]


@dataclass
class Accumulator:
    """A value that tasks add to."""

    value: Any
    param: Any

    def add(self, term: Any) -> None:
        self.value = self.param.addInPlace(self.value, term)


class Session:
    """A session. ``steps`` lists what it was asked for, in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.views: dict[str, Any] = {}
        self.rows: dict[str, Any] = {}
        self.catalog = self
        self.sparkContext = self.conf = self
        self.defaultParallelism = 2
        self.settings: dict[str, str] = {}

    def set(self, name: str, value: str) -> None:
        self.settings[name] = value

    def sql(self, text: str) -> Frame:
        self.steps.append(text)
        return Frame(text, self)

    def table(self, name: str) -> Frame:
        return Frame(name, self, rows=self.rows.get(name.lower(), 0))

    def tableExists(self, name: str) -> bool:
        return name.lower() in self.rows

    def createDataFrame(self, table: pa.Table, schema: str) -> Frame:
        return Frame(f"{table.num_rows} rows as {schema}", self, table=table)

    def accumulator(self, value: Any, param: Any) -> Accumulator:
        assert param.zero(value) == value
        return Accumulator(value, param)

    def range(self, start: int, end: int, step: int, partitions: int) -> Frame:
        self.steps.append(f"range {start} {end} {step} {partitions}")
        return Frame("range", self, table=pa.table({"id": pa.array(range(start, end), pa.int64())}))


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session, and column expressions as text."""
    monkeypatch.setattr("pyspark.sql.functions.col", Expression)
    return Session()
