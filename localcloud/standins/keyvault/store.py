"""Durable storage of keys in SQLite. Private material is encrypted with AES-256-GCM; the key is in a private file."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cleanroom.secret import read_secret_file, write_secret_file
from localcloud.standins.transactions import transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
  name TEXT PRIMARY KEY COLLATE NOCASE, exportable INTEGER NOT NULL, policy TEXT, content_type TEXT, immutable INTEGER NOT NULL,
  deleted INTEGER, purge INTEGER
);
CREATE TABLE IF NOT EXISTS versions (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL COLLATE NOCASE REFERENCES keys(name) ON DELETE CASCADE, version TEXT NOT NULL,
  jwk TEXT NOT NULL, ops TEXT NOT NULL, tags TEXT NOT NULL, enabled INTEGER NOT NULL, nbf INTEGER, exp INTEGER,
  created INTEGER NOT NULL, updated INTEGER NOT NULL, material BLOB NOT NULL, UNIQUE (name, version)
);
"""


@dataclass(frozen=True)
class KeyRecord:
    """The properties that all versions of a key share."""

    name: str
    exportable: bool
    policy: str | None
    """The release policy as canonical JSON text."""
    content_type: str | None
    immutable: bool
    deleted: int | None = None
    """Unix time of deletion; None if the key is not deleted."""
    purge: int | None = None
    """Unix time at which a deleted key is purged."""


@dataclass(frozen=True)
class VersionRecord:
    """A version of a key, without its private material (:meth:`KeyStore.material`)."""

    name: str
    version: str
    jwk: dict[str, Any]
    """Public members and ``kty`` as in responses; for oct ``key_size`` in bits."""
    ops: tuple[str, ...]
    tags: dict[str, str]
    enabled: bool
    nbf: int | None
    exp: int | None
    created: int
    updated: int


class KeyStore:
    """The vault's store. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        seal_file = folder / "keyvault-seal.key"
        if not seal_file.exists():
            write_secret_file(seal_file, os.urandom(32).hex().encode())
        self._seal = AESGCM(bytes.fromhex(read_secret_file(seal_file, what="Key Vault seal").reveal_text()))
        database = folder / "keyvault.sqlite"
        database.touch(mode=0o600, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON; {_SCHEMA}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in an exclusive transaction."""
        with self._lock, transaction(self._db):
            yield

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def key(self, name: str) -> KeyRecord | None:
        """Return a key, deleted or not; None if it does not exist."""
        with self._lock:
            row = self._db.execute("SELECT * FROM keys WHERE name = ?", (name,)).fetchone()
        return None if row is None else _key(row)

    def keys(self, *, deleted: bool) -> list[KeyRecord]:
        """Return the deleted or the other keys, ordered by name."""
        with self._lock:
            rows = self._db.execute(f"SELECT * FROM keys WHERE deleted IS {'NOT' if deleted else ''} NULL ORDER BY name").fetchall()  # noqa: S608
        return [_key(row) for row in rows]

    def put_key(self, record: KeyRecord) -> None:
        """Create a key, or update what can change."""
        with self._lock:
            self._db.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET policy = excluded.policy,"
                " content_type = excluded.content_type, immutable = excluded.immutable, deleted = excluded.deleted, purge = excluded.purge",
                (
                    record.name,
                    record.exportable,
                    record.policy,
                    record.content_type,
                    record.immutable,
                    record.deleted,
                    record.purge,
                ),
            )

    def drop_key(self, name: str) -> None:
        """Remove a key and its versions."""
        with self._lock:
            self._db.execute("DELETE FROM keys WHERE name = ?", (name,))

    def versions(self, name: str) -> list[VersionRecord]:
        """Return the versions of a key, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM versions WHERE name = ? ORDER BY sequence", (name,)).fetchall()
        return [_version(row) for row in rows]

    def add_version(self, record: VersionRecord, material: bytes) -> None:
        """Append a version; ``material`` is PKCS#8 DER, or the raw bytes of an oct key."""
        nonce = os.urandom(12)
        sealed = nonce + self._seal.encrypt(nonce, material, _context(record.name, record.version))
        with self._lock:
            self._db.execute(
                "INSERT INTO versions (name, version, jwk, ops, tags, enabled, nbf, exp, created, updated, material)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (record.name, record.version, json.dumps(record.jwk), *_mutable(record), record.created, record.updated, sealed),
            )

    def update_version(self, record: VersionRecord) -> None:
        """Update what can change in a version."""
        with self._lock:
            self._db.execute(
                "UPDATE versions SET ops = ?, tags = ?, enabled = ?, nbf = ?, exp = ?, updated = ? WHERE name = ? AND version = ?",
                (*_mutable(record), record.updated, record.name, record.version),
            )

    def material(self, record: VersionRecord) -> bytes:
        """Return the decrypted private material of a version."""
        with self._lock:
            row = self._db.execute(
                "SELECT name, material FROM versions WHERE name = ? AND version = ?", (record.name, record.version)
            ).fetchone()
        sealed = row["material"]
        return self._seal.decrypt(sealed[:12], sealed[12:], _context(row["name"], record.version))


def _context(name: str, version: str) -> bytes:
    return f"{name}/{version}".encode()


def _mutable(record: VersionRecord) -> tuple[str, str, bool, int | None, int | None]:
    return json.dumps(record.ops), json.dumps(record.tags), record.enabled, record.nbf, record.exp


def _key(row: sqlite3.Row) -> KeyRecord:
    record = KeyRecord(**{name: row[name] for name in row.keys()})  # noqa: SIM118 -- a Row iterates over values
    return replace(record, exportable=bool(record.exportable), immutable=bool(record.immutable))


def _version(row: sqlite3.Row) -> VersionRecord:
    return VersionRecord(
        name=row["name"],
        version=row["version"],
        jwk=json.loads(row["jwk"]),
        ops=tuple(json.loads(row["ops"])),
        tags=json.loads(row["tags"]),
        enabled=bool(row["enabled"]),
        nbf=row["nbf"],
        exp=row["exp"],
        created=row["created"],
        updated=row["updated"],
    )
