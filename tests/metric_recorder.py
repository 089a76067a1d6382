"""A metric meter that keeps what it is given, for tests of workflows and activities without an exporter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from temporalio.common import MetricMeter

from cleanroom.temporal.metrics import METRICS, Metric


@dataclass
class MetricRecorder:
    """Implements what :class:`cleanroom.temporal.metrics.Metric` uses of a meter."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = field(default_factory=dict)

    def with_additional_attributes(self, attributes: Mapping[str, Any]) -> Self:
        return self

    def _instrument(self, name: str, description: str | None = None, unit: str | None = None) -> _Instrument:
        return _Instrument(self, name)

    create_counter = create_gauge_float = create_histogram_float = _instrument

    def of(self, metric: Metric) -> dict[tuple[str, ...], list[float]]:
        """Values of a metric by its label values, in the order of its labels."""
        found = {key: value for key, value in self.values.items() if key[0] == metric.recorded_name}
        return {tuple(dict(labels)[label] for label in metric.labels): value for (_, labels), value in found.items()}

    @property
    def meter(self) -> MetricMeter:
        return cast(MetricMeter, self)


@dataclass
class _Instrument:
    recorder: MetricRecorder
    name: str

    def with_additional_attributes(self, attributes: Mapping[str, Any]) -> Self:
        return self

    def add(self, value: float, labels: Mapping[str, str] | None = None) -> None:
        assert self.name in {metric.recorded_name for metric in METRICS}
        self.recorder.values.setdefault((self.name, tuple(sorted((labels or {}).items()))), []).append(value)

    set = record = add
