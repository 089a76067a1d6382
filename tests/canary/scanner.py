"""Scans bytes for secrets: known ones in every usual encoding, and unknown ones by their form.

Unknown secrets are bearer tokens, private keys and the capability URLs of guests: nothing lists the tokens that were issued.
"""

from __future__ import annotations

import base64
import bisect
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

Place = tuple[str, bytes]
"""A name, and the bytes that can be read there."""

_JWS = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")
_GUEST = re.compile(rb"/guests/([A-Za-z0-9_-]{16,})")
_PUBLIC_TYPES = ("cleanroom-",)
"""Signed statements of collaborators and of the Spark service are not secret."""


def writings(value: bytes) -> dict[str, bytes]:
    """Return the usual encodings: raw, hex in both cases, base64 in both alphabets at all three offsets, quoted, UTF-16."""
    found = {"raw": value, "hex": value.hex().encode(), "HEX": value.hex().upper().encode()}
    for offset in range(3):
        # Cut off the characters that depend on neighbouring bytes: the first four (the filler) and the last four.
        text = base64.b64encode(b"\0" * offset + value)
        core = text[4 * (offset > 0) : -4]
        found[f"base64+{offset}"] = core
        found[f"base64url+{offset}"] = core.replace(b"+", b"-").replace(b"/", b"_")
    found["quoted"] = quote(value).encode()
    found["utf-16"] = value.decode("latin-1").encode("utf-16-le")
    return {name: needle for name, needle in found.items() if len(needle) >= 12}


@dataclass(frozen=True)
class Finding:
    """A secret that was found: its name, its encoding and the place. Never its value."""

    what: str
    writing: str
    where: str


class Index:
    """Finds thousands of needles in one pass: looks up every eight bytes, and compares only where they start a needle.

    A session knows hundreds of secrets in a dozen encodings each. One search per needle would read gigabytes.
    """

    PREFIX = 8
    BITS = 22
    FACTOR = np.uint64(0x9E3779B97F4A7C15)

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._starts: dict[bytes, list[bytes]] = {}
        for needle in sorted(set(needles)):
            self._starts.setdefault(needle[: self.PREFIX], []).append(needle)
        self._known = np.zeros(1 << self.BITS, dtype=bool)
        if self._starts:
            self._known[self._slots(b"".join(self._starts), 0)] = True

    def _slots(self, data: bytes, offset: int) -> np.ndarray:
        words = np.frombuffer(data, dtype="<u8", offset=offset, count=(len(data) - offset) // self.PREFIX)
        return (words * self.FACTOR) >> np.uint64(64 - self.BITS)

    def find(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield each position of each needle."""
        for offset in range(min(self.PREFIX, len(data) - self.PREFIX + 1)):
            for word in np.flatnonzero(self._known[self._slots(data, offset)]):
                at = offset + int(word) * self.PREFIX
                for needle in self._starts.get(data[at : at + self.PREFIX], ()):
                    if data.startswith(needle, at):
                        yield at, needle


@dataclass
class Scanner:
    """Finds the secrets that it was given."""

    BATCH = 8 << 20

    needles: list[tuple[str, str, bytes]] = field(default_factory=list)
    _index: tuple[int, Index, dict[bytes, list[tuple[str, str]]]] | None = None

    def know(self, what: str, value: bytes) -> None:
        """Add a secret."""
        assert len(value) >= 12, f"{what} is too short to distinguish it from noise"
        self.needles += [(what, writing, needle) for writing, needle in writings(value).items()]

    def look(self, places: Iterable[Place], *, forms: bool = True, guests: bool = True) -> list[Finding]:
        """Return all findings in ``places``."""
        found: set[Finding] = set()
        batch: list[Place] = []
        size = 0
        for where, data in places:
            if forms:
                found |= {Finding("token", kind, where) for kind in bearer_tokens(data)}
                found |= {Finding("private key", "PEM", where) for _ in _PRIVATE.finditer(data)}
            if guests:
                found |= {Finding("guest capability", "URL", where) for _ in _GUEST.finditer(data)}
            batch.append((where, data))
            size += len(data)
            if size >= self.BATCH:
                found |= self._known(batch)
                batch, size = [], 0
        return sorted(found | self._known(batch), key=lambda item: (item.where, item.what))

    def _known(self, batch: list[Place]) -> set[Finding]:
        """Return the known secrets in a batch of places, which is searched as one text."""
        if self._index is None or self._index[0] != len(self.needles):
            names: dict[bytes, list[tuple[str, str]]] = {}
            for what, writing, needle in self.needles:
                names.setdefault(needle, []).append((what, writing))
            self._index = (len(self.needles), Index(names), names)
        _, index, names = self._index
        starts, length = [], 0
        for _, data in batch:
            starts.append(length)
            length += len(data)
        found = set()
        for at, needle in index.find(b"".join(data for _, data in batch)):
            where, data = batch[number := bisect.bisect_right(starts, at) - 1]
            if at + len(needle) <= starts[number] + len(data):  # otherwise the match spans two places
                found |= {Finding(what, writing, where) for what, writing in names[needle]}
        return found


def bearer_tokens(data: bytes) -> Iterator[str]:
    """Yield the type of each signed token in ``data`` that is not a statement of this project."""
    for match in _JWS.finditer(data):
        head = match[0].split(b".")[0]
        try:
            header = json.loads(base64.urlsafe_b64decode(head + b"=" * (-len(head) % 4)))
        except ValueError:
            continue
        kind = str(header.get("typ", "untyped")) if isinstance(header, dict) else ""
        if isinstance(header, dict) and "alg" in header and not kind.startswith(_PUBLIC_TYPES):
            yield kind


def private_parts(pem: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the secret numbers of a private key in PEM, as bytes."""
    yield from private_numbers(serialization.load_pem_private_key(pem, None))


def private_numbers(key: object) -> Iterator[tuple[str, bytes]]:
    """Yield the secret numbers of a private key, as bytes."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        for name, value in (("d", numbers.d), ("p", numbers.p), ("q", numbers.q)):
            yield name, value.to_bytes((value.bit_length() + 7) // 8, "big")
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        yield "d", key.private_numbers().private_value.to_bytes((key.curve.key_size + 7) // 8, "big")
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        yield "seed", key.private_bytes_raw()
    else:
        raise AssertionError(f"unknown key {type(key).__name__}")


def files(folder: Path, *, skip: Iterable[str] = ()) -> Iterator[Place]:
    """Yield every file below ``folder``, except those whose relative path starts with one of ``skip``."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.is_symlink() and not name.startswith(tuple(skip)):
            try:
                yield str(path), path.read_bytes()
            except FileNotFoundError:
                continue
