"""The object store of the Kubernetes stand-in: SQLite, one global resource version, and a bounded history for watches."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcloud.standins.transactions import transaction

Object = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """A kind of object that the stand-in serves."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    has_spec: bool = False
    """Whether a change of ``spec`` increments ``metadata.generation``."""

    @property
    def api_version(self) -> str:
        """``v1``, or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name in the API's messages, such as ``sparkapplications.sparkoperator.k8s.io``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACES = Resource("namespaces", "Namespace", namespaced=False)
PODS = Resource("pods", "Pod", has_spec=True)
EVENTS = Resource("events", "Event")
CONFIG_MAPS = Resource("configmaps", "ConfigMap")
SPARK_APPLICATIONS = Resource("sparkapplications", "SparkApplication", "sparkoperator.k8s.io", "v1beta2", has_spec=True)
SERVICES = Resource("services", "Service", has_spec=True)
VOLUME_CLAIMS = Resource("persistentvolumeclaims", "PersistentVolumeClaim", has_spec=True)
QUOTAS = Resource("resourcequotas", "ResourceQuota", has_spec=True)
EVENT_LIFETIME = dt.timedelta(hours=1)
"""The API server's default (``--event-ttl``)."""
RESOURCES = (NAMESPACES, PODS, EVENTS, CONFIG_MAPS, SERVICES, VOLUME_CLAIMS, QUOTAS, SPARK_APPLICATIONS)


class ApiFailure(Exception):
    """An error response, as a Kubernetes ``Status`` object."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({"details": details} if details else {}),
            "code": code,
        }


def not_found(resource: Resource, name: str) -> ApiFailure:
    """Return 404 NotFound with the API's message."""
    details = {"name": name, **({"group": resource.group} if resource.group else {}), "kind": resource.plural}
    return ApiFailure(404, "NotFound", f'{resource.qualified} "{name}" not found', details)


def conflict(resource: Resource, name: str, message: str) -> ApiFailure:
    """Return 409 Conflict: the object has changed, or is another one."""
    details = {"name": name, "kind": resource.plural}
    return ApiFailure(409, "Conflict", f'Operation cannot be fulfilled on {resource.qualified} "{name}": {message}', details)


def expired(wanted: int, oldest: int) -> ApiFailure:
    """Return 410 Expired: the history does not contain this version."""
    return ApiFailure(410, "Expired", f"too old resource version: {wanted} ({oldest})")


def timestamp() -> str:
    """Return the current time as the API writes it: RFC 3339 in whole seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    """A recorded change of one object."""

    version: int
    kind: str
    """``ADDED``, ``MODIFIED`` or ``DELETED``."""
    object: Object


class Store:
    """Objects by resource, namespace and name. Use it in one event loop; :meth:`subscription` waits for changes."""

    def __init__(self, file: Path, *, window: int = 2000) -> None:
        self._window = window
        self._swept = float("-inf")
        self._waiters: set[asyncio.Event] = set()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(
            """
            CREATE TABLE IF NOT EXISTS objects (
              resource TEXT, namespace TEXT, name TEXT, body TEXT NOT NULL, PRIMARY KEY (resource, namespace, name));
            CREATE TABLE IF NOT EXISTS history (
              version INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, resource TEXT NOT NULL,
              namespace TEXT NOT NULL, body TEXT NOT NULL);
            """
        )

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @property
    def version(self) -> int:
        """The newest resource version."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name='history'").fetchone()
        return int(row[0]) if row else 0

    @property
    def oldest(self) -> int:
        """The oldest resource version from which a watch can resume."""
        row = self._db.execute("SELECT min(version) FROM history").fetchone()
        return int(row[0]) - 1 if row and row[0] is not None else self.version

    # --- reading

    def find(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """Return the object, or None."""
        row = self._db.execute(
            "SELECT body FROM objects WHERE resource=? AND namespace=? AND name=?", (resource.plural, namespace, name)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return the object.

        Raises:
            ApiFailure: 404 if it does not exist.
        """
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def objects(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """Return all objects of a resource, ordered by namespace and name."""
        rows = self._db.execute(
            "SELECT body FROM objects WHERE resource=? AND (? IS NULL OR namespace=?) ORDER BY namespace, name",
            (resource.plural, namespace, namespace),
        )
        return [json.loads(row[0]) for row in rows]

    def since(self, version: int, resource: Resource, namespace: str | None) -> list[Change]:
        """Return the changes after ``version``, oldest first.

        Raises:
            ApiFailure: 410 if the history does not contain the version: it is too old, or comes from another database.
        """
        if version < self.oldest or version > self.version:
            raise expired(version, self.oldest)
        rows = self._db.execute(
            "SELECT version, kind, body FROM history WHERE version>? AND resource=? AND (? IS NULL OR namespace=?) ORDER BY version",
            (version, resource.plural, namespace, namespace),
        )
        return [Change(row[0], row[1], json.loads(row[2])) for row in rows]

    # --- writing

    def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Store a new object, with UID, creation time, generation and resource version.

        Raises:
            ApiFailure: 409 AlreadyExists.
        """
        name = body["metadata"]["name"]
        if self.find(resource, namespace, name) is not None:
            details = {"name": name, **({"group": resource.group} if resource.group else {}), "kind": resource.plural}
            raise ApiFailure(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', details)
        metadata = {
            **body["metadata"],
            **({"namespace": namespace} if resource.namespaced else {}),
            "uid": str(uuid.uuid4()),
            "creationTimestamp": timestamp(),
            **({"generation": 1} if resource.has_spec else {}),
        }
        metadata.pop("deletionTimestamp", None)
        return self._write(
            "ADDED", resource, namespace, {"apiVersion": resource.api_version, "kind": resource.kind, **body, "metadata": metadata}
        )

    def update(self, resource: Resource, namespace: str, name: str, change: Callable[[Object], Object | None]) -> Object:
        """Apply ``change`` to a copy of the object, and store the object that it returns, or the edited copy.

        An object that is being deleted is removed with its last finalizer. An unchanged object is not written.

        Raises:
            ApiFailure: 404 if the object does not exist.
        """
        before = self.get(resource, namespace, name)
        working = json.loads(json.dumps(before))
        after = change(working) or working
        for fixed in ("uid", "name", "namespace", "creationTimestamp"):
            if fixed in before["metadata"]:
                after["metadata"][fixed] = before["metadata"][fixed]
        if resource.has_spec and after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
        if after == before:
            return before
        if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
            return self.remove(resource, namespace, name)
        return self._write("MODIFIED", resource, namespace, after)

    def remove(self, resource: Resource, namespace: str, name: str) -> Object:
        """Remove the object, regardless of finalizers.

        Raises:
            ApiFailure: 404 if it does not exist.
        """
        return self._write("DELETED", resource, namespace, self.get(resource, namespace, name))

    def _write(self, kind: str, resource: Resource, namespace: str, body: Object) -> Object:
        with transaction(self._db):
            version = self._db.execute(
                "INSERT INTO history (kind, resource, namespace, body) VALUES (?, ?, ?, '')", (kind, resource.plural, namespace)
            ).lastrowid
            assert version is not None
            body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}
            text = json.dumps(body)
            self._db.execute("UPDATE history SET body=? WHERE version=?", (text, version))
            key = (resource.plural, namespace, body["metadata"]["name"])
            if kind == "DELETED":
                self._db.execute("DELETE FROM objects WHERE resource=? AND namespace=? AND name=?", key)
            else:
                self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", (*key, text))
            self._db.execute("DELETE FROM history WHERE version<=?", (version - self._window,))
        for waiter in self._waiters:
            waiter.set()
        return body

    # --- waiting

    @contextmanager
    def subscription(self) -> Iterator[asyncio.Event]:
        """Yield an event that is set at every change. Clear it before reading objects."""
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            yield event
        finally:
            self._waiters.discard(event)

    # --- events about objects

    def record(self, about: Object, reason: str, message: str, *, warning: bool = False, component: str = "kubelet") -> None:
        """Record a core/v1 event about an object; if the same event exists, increment its count."""
        metadata, message = about["metadata"], message[:1024]
        namespace = metadata["namespace"]
        seen = timestamp()
        self._forget_old_events()
        rows = self._db.execute(
            "SELECT name FROM objects WHERE resource=? AND namespace=? AND json_extract(body, '$.involvedObject.uid')=?"
            " AND json_extract(body, '$.reason')=? AND json_extract(body, '$.message')=?",
            (EVENTS.plural, namespace, metadata["uid"], reason, message),
        )
        if (row := rows.fetchone()) is not None:
            self.update(EVENTS, namespace, row[0], lambda item: {**item, "count": item["count"] + 1, "lastTimestamp": seen})
            return
        self.create(
            EVENTS,
            namespace,
            {
                "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}"},
                "involvedObject": {
                    "apiVersion": about["apiVersion"],
                    "kind": about["kind"],
                    "name": metadata["name"],
                    "namespace": namespace,
                    "uid": metadata["uid"],
                },
                "reason": reason,
                "message": message,
                "type": "Warning" if warning else "Normal",
                "source": {"component": component},
                "reportingComponent": component,
                "reportingInstance": component,
                "firstTimestamp": seen,
                "lastTimestamp": seen,
                "count": 1,
            },
        )

    def _forget_old_events(self) -> None:
        """Remove events older than :data:`EVENT_LIFETIME`."""
        now = time.monotonic()
        if now - self._swept < 60:
            return
        self._swept = now
        oldest = (dt.datetime.now(dt.UTC) - EVENT_LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows = self._db.execute(
            "SELECT namespace, name FROM objects WHERE resource=? AND json_extract(body, '$.lastTimestamp')<?", (EVENTS.plural, oldest)
        )
        for namespace, name in rows.fetchall():
            self.remove(EVENTS, namespace, name)
