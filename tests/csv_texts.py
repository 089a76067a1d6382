"""CSV texts for Hypothesis: common and odd spellings of values of every type, in several dialects."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from cleanroom.documents.dataset import CsvDialect, FieldType

KINDS: tuple[FieldType, ...] = get_args(FieldType)
COMMON: dict[FieldType, list[str]] = {
    "integer": ["0", "-7", "007", "999999999"],
    "long": ["0", "-7", "999999999999999999"],
    "number": ["0", "-1.5", "517.0", "1e9", "2.5E-12"],
    "boolean": ["true", "false"],
    "date": ["2013-01-31", "1600-02-28", "2099-12-31", "2024-04-30"],
    "timestamp": ["2013-01-01", "2013-01-01T10:00:00Z", "2013-01-01 23:59:59.123456"],
    "string": ["", "a b", "ä", '"a,b"', '""', '"say ""hi"""'],
}
ODD = [
    *("0x1F", "1e999", "NaN", "inf", "+1", " 1", "1 ", "1_0", "12345678901234567890", "1.", ".5", "--1", '"1"', "TRUE", "NULL", "\\N"),
    *(
        "2013-02-29",
        "2012-02-29",
        "2013-04-31",
        "0001-01-01",
        "2013-1-1",
        "2013-01-01T24:00:00Z",
        "2013-01-01T10",
        "2013-01-01T10:00:00+01",
    ),
    *('a"b', '"a', '"a"b', '"a\nb"', "\r", "a\rb", "\x00", "\ufeff", "é", "١"),
]
TEXT = st.one_of(
    st.sampled_from([*ODD, *(text for texts in COMMON.values() for text in texts)]), st.text('0123456789-+.:eETZx"\r\n ,;', max_size=6)
)
DIALECTS = [
    CsvDialect(),
    CsvDialect(delimiter=";"),
    CsvDialect(delimiter="\t", null_text="\\N"),
    CsvDialect(delimiter="|", null_text="NULL"),
]


@st.composite
def texts(draw: Any) -> tuple[bytes, list[FieldType], CsvDialect]:
    """Text of several rows, most of whose values match their columns."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    dialect = draw(st.sampled_from(DIALECTS))
    fitting = [st.sampled_from(COMMON[kind]) | st.just(dialect.null_text) for kind in kinds]
    rows = draw(st.lists(st.tuples(*(st.one_of(each, each, each, each, TEXT) for each in fitting)), max_size=4))
    ends = draw(st.sampled_from(["\n", "\r\n"]))
    return "".join(dialect.delimiter.join(row) + ends for row in rows).encode(), kinds, dialect
