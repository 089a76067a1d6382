"""Base64url: integers round trip, and the strict decoder accepts canonical text only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom.jose.encoding import b64_any, b64uint, b64url, b64url_strict


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
