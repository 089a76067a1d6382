"""The objects of the Kubernetes stand-in: SQLite, one global resource version, and a bounded history from which watches resume."""

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
    """One kind that the stand-in serves."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    has_spec: bool = False
    """Whether a change of ``spec`` raises ``metadata.generation``."""

    @property
    def api_version(self) -> str:
        """``v1``, or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name that the API's messages use: ``sparkapplications.sparkoperator.k8s.io``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACES = Resource("namespaces", "Namespace", namespaced=False)
PODS = Resource("pods", "Pod", has_spec=True)
EVENTS = Resource("events", "Event")
CONFIG_MAPS = Resource("configmaps", "ConfigMap")
SPARK_APPLICATIONS = Resource("sparkapplications", "SparkApplication", "sparkoperator.k8s.io", "v1beta2", has_spec=True)
SERVICES = Resource("services", "Service", has_spec=True)
VOLUME_CLAIMS = Resource("persistentvolumeclaims", "PersistentVolumeClaim", has_spec=True)
EVENT_LIFETIME = dt.timedelta(hours=1)
RESOURCES = (NAMESPACES, PODS, EVENTS, CONFIG_MAPS, SERVICES, VOLUME_CLAIMS, SPARK_APPLICATIONS)


class ApiFailure(Exception):
    """An answer other than success, as a Kubernetes ``Status`` object."""

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
    """404 as the API words it."""
    details = {"name": name, **({"group": resource.group} if resource.group else {}), "kind": resource.plural}
    return ApiFailure(404, "NotFound", f'{resource.qualified} "{name}" not found', details)


def conflict(resource: Resource, name: str, message: str) -> ApiFailure:
    """409 Conflict: the object moved on."""
    details = {"name": name, "kind": resource.plural}
    return ApiFailure(409, "Conflict", f'Operation cannot be fulfilled on {resource.qualified} "{name}": {message}', details)


def expired(wanted: int, oldest: int) -> ApiFailure:
    """410: the history no longer reaches back that far."""
    return ApiFailure(410, "Expired", f"too old resource version: {wanted} ({oldest})")


def timestamp() -> str:
    """Now, as the API writes times: RFC 3339 in whole seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    version: int
    kind: str
    """``ADDED``, ``MODIFIED`` or ``DELETED``."""
    object: Object


class Store:
    """Objects by (resource, namespace, name). For one event loop; :meth:`changed` wakes whoever waits for a change."""

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
        row = self._db.execute(
            "SELECT body FROM objects WHERE resource=? AND namespace=? AND name=?", (resource.plural, namespace, name)
        ).fetchone()
        return json.loads(row[0]) if row else None

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """The object.

        Raises:
            ApiFailure: 404.
        """
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def objects(self, resource: Resource, namespace: str | None = None) -> list[Object]:
        """All objects of a resource, by namespace and name."""
        rows = self._db.execute(
            "SELECT body FROM objects WHERE resource=? AND (? IS NULL OR namespace=?) ORDER BY namespace, name",
            (resource.plural, namespace, namespace),
        )
        return [json.loads(row[0]) for row in rows]

    def since(self, version: int, resource: Resource, namespace: str | None) -> list[Change]:
        """Changes after ``version``, oldest first.

        Raises:
            ApiFailure: 410 when the history does not reach back that far, or was begun anew since that version.
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
        """Store a new object; fills uid, times, generation and resource version.

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
        """Apply ``change`` to a copy of the object and store what it returns (or the copy that it edited).

        An object whose deletion was asked for disappears with its last finalizer. An unchanged object is not written again.

        Raises:
            ApiFailure: 404.
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
        """Delete the object for good.

        Raises:
            ApiFailure: 404.
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
        """An event that is set at every change; clear it before looking."""
        event = asyncio.Event()
        self._waiters.add(event)
        try:
            yield event
        finally:
            self._waiters.discard(event)

    # --- events about objects

    def record(self, about: Object, reason: str, message: str, *, warning: bool = False, component: str = "kubelet") -> None:
        """A core/v1 event about ``about``; the same one again raises its count."""
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
        """Clusters keep events for an hour."""
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
