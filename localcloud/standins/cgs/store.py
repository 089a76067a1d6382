"""The ledger and the key-value tables of the CGS stand-in, in one SQLite file with group commit.

The model is that of CCF (docs/facts/governance-service.md#transactions): named tables of JSON values. Every successful write request is
one transaction with the next sequence number. The version of a key is ``<view>.<seqno>`` of its last write. Private tables are
encrypted at rest.

Writes run sequentially on the event loop in one SQLite transaction, each in its own savepoint. They are committed together with one
``fsync``, while later requests wait for the next batch. A caller gets its answer only after its batch is on disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cleanroom.secret import read_secret_file, write_secret_file
from localcloud.standins.cgs.nodes import Nodes, Row

T = TypeVar("T")

VIEW = 2
"""The stand-in never elects a new leader, so its view is constant."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (tab TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, seqno INTEGER NOT NULL,
    PRIMARY KEY (tab, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (tab TEXT NOT NULL, key TEXT NOT NULL, seqno INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (tab, key, seqno)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (one INTEGER PRIMARY KEY CHECK (one = 1), seqno INTEGER NOT NULL);
INSERT OR IGNORE INTO ledger VALUES (1, 1);
"""


class Sealer:
    """AES-256-GCM encryption of the private tables. The key is in a private file next to the database."""

    def __init__(self, key_file: Path) -> None:
        if not key_file.exists():
            write_secret_file(key_file, AESGCM.generate_key(256).hex().encode())
        self._aead = AESGCM(bytes.fromhex(read_secret_file(key_file, what="CGS storage key").reveal_text()))

    def seal(self, table: str, key: str, plain: bytes) -> bytes:
        """Encrypt a value; its table and key are authenticated."""
        nonce = os.urandom(12)
        return nonce + self._aead.encrypt(nonce, plain, _place(table, key))

    def open(self, table: str, key: str, sealed: bytes) -> bytes:
        """Decrypt a value.

        Raises:
            InvalidTag: The row was moved or changed.
        """
        return self._aead.decrypt(sealed[:12], sealed[12:], _place(table, key))


def _place(table: str, key: str) -> bytes:
    return json.dumps([table, key]).encode()


class Tx:
    """A request's transaction. Reads see its own writes; the first write takes a sequence number."""

    def __init__(self, connection: sqlite3.Connection, sealer: Sealer, seqno: int, *, writable: bool, committed: int | None = None) -> None:
        self._db = connection
        self._sealer = sealer
        self._base = seqno
        self._writable = writable
        self.wrote = False
        self.rows: list[Row] = []
        """What this transaction has written."""
        self.committed = seqno if committed is None else committed
        """The last sequence number that this node knows to be committed."""

    @property
    def seqno(self) -> int:
        """The transaction's sequence number if it has written, else that of its snapshot."""
        return self._base + 1 if self.wrote else self._base

    def get(self, table: str, key: str) -> Any:
        """Return the value (parsed JSON) or None."""
        row = self._db.execute("SELECT value FROM kv WHERE tab = ? AND key = ?", (table, key)).fetchone()
        return None if row is None else json.loads(row[0])

    def has(self, table: str, key: str) -> bool:
        """Whether the key has a value."""
        return self._db.execute("SELECT 1 FROM kv WHERE tab = ? AND key = ?", (table, key)).fetchone() is not None

    def items(self, table: str) -> Iterator[tuple[str, Any]]:
        """Yield the keys and values of a table, ordered by key."""
        for key, value in self._db.execute("SELECT key, value FROM kv WHERE tab = ? ORDER BY key", (table,)).fetchall():
            yield key, json.loads(value)

    def keys(self, table: str) -> list[str]:
        """Return the sorted keys of a table."""
        return [row[0] for row in self._db.execute("SELECT key FROM kv WHERE tab = ? ORDER BY key", (table,))]

    def last_write(self, table: str, key: str) -> int | None:
        """Return the sequence number of a key's last write; None if the key does not exist."""
        row = self._db.execute("SELECT seqno FROM kv WHERE tab = ? AND key = ?", (table, key)).fetchone()
        return None if row is None else int(row[0])

    def version(self, table: str, key: str) -> str | None:
        """Return ``<view>.<seqno>`` of a key's last write; None if the key does not exist."""
        seqno = self.last_write(table, key)
        return None if seqno is None else f"{VIEW}.{seqno}"

    def put(self, table: str, key: str, value: Any, *, history: bool = False) -> None:
        """Write a JSON value. With ``history``, :meth:`range` returns earlier values as well."""
        self._write(table, key, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"), history)

    def delete(self, table: str, key: str) -> None:
        """Remove a key, if it exists."""
        self._mark()
        self.rows.append((table, key, None, self.seqno, False))
        self._db.execute("DELETE FROM kv WHERE tab = ? AND key = ?", (table, key))

    def put_private(self, table: str, key: str, plain: bytes) -> None:
        """Write bytes, encrypted at rest."""
        self._write(table, key, self._sealer.seal(table, key, plain), False)

    def get_private(self, table: str, key: str) -> bytes | None:
        """Return the decrypted bytes of :meth:`put_private`, or None."""
        row = self._db.execute("SELECT value FROM kv WHERE tab = ? AND key = ?", (table, key)).fetchone()
        return None if row is None else self._sealer.open(table, key, row[0])

    def range(self, table: str, key: str, first: int, last: int) -> list[tuple[int, Any]]:
        """Return the sequence numbers and values of a key's writes from ``first`` to ``last``, in order."""
        rows = self._db.execute(
            "SELECT seqno, value FROM history WHERE tab = ? AND key = ? AND seqno BETWEEN ? AND ? ORDER BY seqno", (table, key, first, last)
        )
        return [(int(seqno), json.loads(value)) for seqno, value in rows]

    def _mark(self) -> None:
        if not self._writable:
            raise RuntimeError("A read transaction cannot write; declare the route with write=True.")
        self.wrote = True

    def _write(self, table: str, key: str, value: bytes, history: bool) -> None:
        self._mark()
        self.rows.append((table, key, value, self.seqno, history))
        self._db.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?)", (table, key, value, self.seqno))
        if history:
            self._db.execute("INSERT OR REPLACE INTO history VALUES (?, ?, ?, ?)", (table, key, self.seqno, value))


@dataclass
class _Pending(Generic[T]):
    work: Callable[[Tx], T]
    done: asyncio.Future[tuple[T, int]]


class Store:
    """The database: :meth:`read` uses a snapshot, :meth:`write` is durable. For concurrent callers on one event loop.

    Args:
        folder: Holds the database and the key of the private tables.
        lag: Seconds after which the second node has a write (:class:`~localcloud.standins.cgs.nodes.Nodes`).
        interval: Seconds between two signatures.
    """

    def __init__(self, folder: Path, *, lag: float = 0.0, interval: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sealer = Sealer(folder / "storage.key")
        self._writer = self._connect(folder / "cgs.sqlite")
        self._writer.executescript(_SCHEMA)
        self._reader = self._connect(folder / "cgs.sqlite")
        self.nodes = Nodes(self._writer, lag=lag, interval=interval)
        self._pending: list[_Pending[Any]] = []
        self._flushing: asyncio.Task[None] | None = None

    @staticmethod
    def _connect(file: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=10)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def read(self, work: Callable[[Tx], T], *, lagging: bool = False) -> tuple[T, int]:
        """Run ``work`` on the state of a node; return its result and the sequence number of that state."""
        database = self.nodes.lagging() if lagging else self._reader
        database.execute("BEGIN")
        try:
            committed = self.nodes.committed(lagging=lagging)
            tx = Tx(database, self._sealer, self._seqno(database), writable=False, committed=committed)
            return work(tx), tx.seqno
        finally:
            database.execute("ROLLBACK")

    async def write(self, work: Callable[[Tx], T]) -> tuple[T, int]:
        """Run ``work`` atomically; return its result and sequence number when the commit is on disk.

        If ``work`` raises, its writes are rolled back and the exception is raised here.
        """
        done: asyncio.Future[tuple[T, int]] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(work, done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await done

    async def _flush(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                await self._commit(batch)
        finally:
            self._flushing = None

    async def _commit(self, batch: list[_Pending[Any]]) -> None:
        answers: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            seqno = first = self._seqno(self._writer)
            rows: list[Row] = []
            for pending in batch:
                tx = Tx(self._writer, self._sealer, seqno, writable=True)
                self._writer.execute("SAVEPOINT request")
                try:
                    result = pending.work(tx)
                except Exception as error:
                    self._writer.execute("ROLLBACK TO request")
                    answers.append((pending.done, None, error))
                else:
                    seqno = tx.seqno
                    rows += tx.rows
                    answers.append((pending.done, (result, seqno), None))
                self._writer.execute("RELEASE request")
            if seqno == first:
                self._writer.execute("ROLLBACK")
            else:
                self._writer.execute("UPDATE ledger SET seqno = ?", (seqno,))
                await asyncio.to_thread(self._writer.execute, "COMMIT")
                self.nodes.wrote(seqno, rows)
        except Exception as error:  # every caller of the batch must get an answer
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            answers = [(pending.done, None, error) for pending in batch]
        for done, answer, failure in answers:
            if done.done():
                continue
            if failure is None:
                done.set_result(answer)
            else:
                done.set_exception(failure)

    @staticmethod
    def _seqno(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT seqno FROM ledger").fetchone()[0])

    def close(self) -> None:
        """Close the database files."""
        self._reader.close()
        self.nodes.replica.close()
        self._writer.close()
