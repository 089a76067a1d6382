"""Base64url: integers round trip, and the strict decoder accepts canonical text only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.jose.encoding import b64_any, b64uint, b64url, b64url_strict, strict_json


@given(value=st.integers(0, 2**521))
def test_integers_round_trip(value: int) -> None:
    assert int.from_bytes(b64_any(b64uint(value)), "big") == value


@given(data=st.binary(max_size=50))
def test_strict_base64url_accepts_canonical_text_only(data: bytes) -> None:
    text = b64url(data)
    assert b64url_strict(text) == data
    for alphabet in "ABEIMQZaz09-_":
        other = text[:-1] + alphabet
        if text and other != text:
            try:
                assert b64url_strict(other) != data
            except ValueError:
                continue
    for bad in (f"{text}=", f"{text} ", f"\n{text}", f"{text}+"):
        with pytest.raises(ValueError, match="base64url"):
            b64url_strict(bad)


@pytest.mark.parametrize(("value", "text"), [(0, "AA"), (1, "AQ"), (255, "_w"), (256, "AQA"), (65537, "AQAB"), (1 << 16, "AQAA")])
def test_integer_has_no_leading_zero_bytes(value: int, text: str) -> None:
    assert b64uint(value) == text


@pytest.mark.parametrize(
    ("text", "data"), [("", b""), ("_-8", b"\xff\xef"), ("/+8=", b"\xff\xef"), (" /+8 ", b"\xff\xef"), ("AA==", b"\0"), ("AAA", b"\0\0")]
)
def test_either_alphabet_is_decoded_padded_or_not(text: str, data: bytes) -> None:
    assert b64_any(text) == data


@pytest.mark.parametrize("text", ["A", "AAAAA", "A A", "A=A", "A!", "é", "AA.AA"])
def test_other_text_is_not_base64(text: str) -> None:
    with pytest.raises(ValueError, match="neither base64 nor base64url"):
        b64_any(text)
    with pytest.raises(ValueError, match="not base64url"):
        b64url_strict(text)


@pytest.mark.parametrize(("text", "value"), [('{"a":1.5,"b":[true,null]}', {"a": 1.5, "b": [True, None]}), ("1e3", 1000.0), ('"ä"', "ä")])
def test_json_is_read_from_text_and_bytes(text: str, value: object) -> None:
    assert strict_json(text) == strict_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a":1,"a":1}', "duplicate member names"),
        ('[{"b":{"a":1,"a":2}}]', "duplicate member names"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1e999", "1e999 is out of range"),
        ("-1e999", "-1e999 is out of range"),
        ('"\\ud800"', "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
        ('{"a":1}'.encode("utf-16"), "not JSON"),
        ('{"a":1}'.encode("utf-16-le"), "Expecting property name"),
        ('{"a":1}'.encode("utf-8-sig"), "BOM"),
        (b'"\xed\xa0\x80"', "not JSON"),
        ("{", "Expecting"),
        ("{} {}", "Extra data"),
    ],
)
def test_json_that_parsers_read_differently_is_rejected(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_json(text)
