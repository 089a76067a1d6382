"""Looking for secrets where none may be: which secrets there are, how they could be written, and where a stranger could read.

A :class:`Scanner` knows secrets by value, in every writing that software gives to bytes, and by form (a bearer token, a private key, the
capability URL of a guest), since nobody can list the tokens that were issued.
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
"""Where, and the bytes that can be read there."""

_JWS = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")
_GUEST = re.compile(rb"/guests/([A-Za-z0-9_-]{16,})")
_PUBLIC_TYPES = ("cleanroom-",)
"""Statements of people and of the Spark service are signed to be shown."""


def writings(value: bytes) -> dict[str, bytes]:
    """How bytes may be written: raw, hex in both cases, base64 in both alphabets and at each of the three offsets, quoted."""
    found = {"raw": value, "hex": value.hex().encode(), "HEX": value.hex().upper().encode()}
    for offset in range(3):
        # Characters that depend on the neighbours are cut off: four at the start hold at least the filler, up to three at the end.
        text = base64.b64encode(b"\0" * offset + value)
        core = text[4 * (offset > 0) : -4]
        found[f"base64+{offset}"] = core
        found[f"base64url+{offset}"] = core.replace(b"+", b"-").replace(b"/", b"_")
    found["quoted"] = quote(value).encode()
    found["utf-16"] = value.decode("latin-1").encode("utf-16-le")
    return {name: needle for name, needle in found.items() if len(needle) >= 12}


@dataclass(frozen=True)
class Finding:
    """A secret that was found: what, in which writing, where. Never its value."""

    what: str
    writing: str
    where: str


class Index:
    """Finds thousands of needles in one reading: every eight bytes are looked up, whatever stands where eight of them are is compared.

    A search for each would read gigabytes: a session knows hundreds of secrets, each in a dozen writings.
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
        """Each place of each needle."""
        for offset in range(min(self.PREFIX, len(data) - self.PREFIX + 1)):
            for word in np.flatnonzero(self._known[self._slots(data, offset)]):
                at = offset + int(word) * self.PREFIX
                for needle in self._starts.get(data[at : at + self.PREFIX], ()):
                    if data.startswith(needle, at):
                        yield at, needle


@dataclass
class Scanner:
    """Knows secrets and finds them in bytes."""

    BATCH = 8 << 20

    needles: list[tuple[str, str, bytes]] = field(default_factory=list)
    _index: tuple[int, Index, dict[bytes, list[tuple[str, str]]]] | None = None

    def know(self, what: str, value: bytes) -> None:
        """Look for ``value`` from now on."""
        assert len(value) >= 12, f"{what} is too short to be told from noise"
        self.needles += [(what, writing, needle) for writing, needle in writings(value).items()]

    def look(self, places: Iterable[Place], *, forms: bool = True, guests: bool = True) -> list[Finding]:
        """Everything that is found in ``places``."""
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
        """The known secrets in a batch of places, which is searched as one text."""
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
            if at + len(needle) <= starts[number] + len(data):  # else two places make it up together
                found |= {Finding(what, writing, where) for what, writing in names[needle]}
        return found


def bearer_tokens(data: bytes) -> Iterator[str]:
    """Kinds of the signed tokens in ``data`` that are no statements of this project."""
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
    """The secret numbers of a private key, as bytes."""
    yield from private_numbers(serialization.load_pem_private_key(pem, None))


def private_numbers(key: object) -> Iterator[tuple[str, bytes]]:
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
    """Every file below ``folder`` but those whose relative path starts with one of ``skip``."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.is_symlink() and not name.startswith(tuple(skip)):
            try:
                yield str(path), path.read_bytes()
            except FileNotFoundError:
                continue
