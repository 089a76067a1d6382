"""Canonical JSON is that of rfc8785, also where our own code writes it."""

from __future__ import annotations

import json
from enum import IntEnum, StrEnum
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.identifiers import canonical_json

LIMIT = 2**53


class Word(StrEnum):
    ONE = "one"


class Number(IntEnum):
    ONE = 1


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([LIMIT - 1, 1 - LIMIT, LIMIT, -LIMIT, Word.ONE, Number.ONE, 1e21, -0.0, b"x"]),
    st.floats(),
    st.text(st.characters(codec=None)),
)
names = st.one_of(st.text(max_size=3), st.sampled_from(["\ufb33", "\U0001f600", "\ud800", "\x7f", Word.ONE, 1, None]))
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(names, inner, max_size=4))


def outcome(work: Any, value: Any) -> Any:
    try:
        return work(value)
    except Exception as error:
        return type(error), str(error)


@given(values)
def test_result_and_errors_are_those_of_rfc8785(value: Any) -> None:
    assert outcome(canonical_json, value) == outcome(rfc8785.dumps, value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": [1, True, None, "x"], "a": {}}, b'{"a":{},"b":[1,true,null,"x"]}'),
        ("".join(map(chr, range(0x80))), None),
        ({"\U0001f600": 1, "\ufb33": 2}, '{"\U0001f600":1,"\ufb33":2}'.encode()),  # in the order of UTF-16
        ({"x": 1.0, "y": 1e21}, b'{"x":1,"y":1e+21}'),
    ],
)
def test_canonical_json_of_a_value(value: Any, expected: bytes | None) -> None:
    assert canonical_json(value) == rfc8785.dumps(value) == (expected or canonical_json(json.loads(canonical_json(value))))


def test_value_that_is_too_deep_is_refused_as_by_rfc8785() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(RecursionError):
        canonical_json(value)
