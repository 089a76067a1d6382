"""The scanner of :mod:`tests.canary` finds secrets in every encoding and by their form."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.canary.scanner import Finding, Scanner, files, writings


@pytest.mark.parametrize("writing", ["raw", "hex", "HEX", "base64+0", "base64+1", "base64+2", "base64url+1", "quoted", "utf-16"])
def test_scanner_finds_every_encoding_of_a_secret(tmp_path: Path, writing: str) -> None:
    secret = os.urandom(32)
    scanner = Scanner()
    scanner.know("planted", secret)
    text = {
        **writings(secret),
        **{f"base64+{offset}": base64.b64encode(b"abc"[:offset] + secret + b"tail") for offset in range(3)},
        "base64url+1": base64.urlsafe_b64encode(b"a" + secret + b"tail"),
    }[writing]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/service.log").write_bytes(b"2026-01-01 INFO something\n" + text + b"\nmore\n")
    assert [(item.what, Path(item.where).name) for item in scanner.look(files(tmp_path))] == [("planted", "service.log")] * len(
        scanner.look(files(tmp_path))
    )
    assert scanner.look(files(tmp_path)) != []
    (tmp_path / "deep/service.log").write_bytes(os.urandom(100_000))
    assert scanner.look(files(tmp_path)) == []


def test_scanner_does_not_join_places() -> None:
    secret, scanner = os.urandom(16), Scanner()
    scanner.know("planted", secret)
    whole = [("start", secret + b"x"), ("end", b"x" + secret), ("alone", secret)]
    assert scanner.look([("empty", b""), *whole, ("empty", b""), ("half", secret[:9]), ("rest", secret[9:])]) == sorted(
        (Finding("planted", "raw", where) for where, _ in whole), key=lambda item: item.where
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b'x "Authorization": "Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJhdWQiOiJ4eXoiLCJzdWIiOiJhIn0.c2lnbmF0dXJlc2ln"', "token"),
        (b"-----BEGIN PRIVATE KEY-----\nMIIE", "private key"),
        (b"INFO httpx: HTTP Request: POST https://localhost:1/guests/AbCdEfGhIjKlMnOpQrStUv/attest/combined", "guest capability"),
    ],
)
def test_scanner_finds_tokens_keys_and_capabilities(text: bytes, what: str) -> None:
    assert [item.what for item in Scanner().look([("log", b"line\n" + text + b"\nline")])] == [what]
