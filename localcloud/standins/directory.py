"""The directory that Entra ID and ARM share, as in Azure.

Tenants, users, service principals and subscriptions come from the configuration. Managed identities, federated credentials and role
assignments are in SQLite.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _guid(value: str) -> str:
    return str(uuid.UUID(value))


Guid = Annotated[str, AfterValidator(_guid)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tenant(_Model):
    """An Entra ID tenant. Requests name it by ID or by domain."""

    id: Guid
    domain: str


class Principal(_Model):
    """A user or a service principal that signs in with a client secret.

    Users sign in without a browser: each user is its own client, and the token of the client-credentials grant has the user's claims
    (``preferred_username``, ``idtyp: user``).
    """

    kind: Literal["user", "service-principal"]
    tenant_id: Guid
    client_id: Guid
    object_id: Guid
    name: str
    username: str | None = None
    """``preferred_username`` and ``upn`` of a user."""
    client_secret_file: Path


class RoleGrant(_Model):
    """A role that a principal has on a whole subscription from the start."""

    object_id: Guid
    role: str
    """Name of a built-in role (:mod:`localcloud.standins.arm.roles`)."""


class Subscription(_Model):
    """An Azure subscription of one tenant. The stand-in cannot create resource groups."""

    id: Guid
    tenant_id: Guid
    name: str
    resource_groups: tuple[str, ...] = ()
    location: str = "westeurope"
    grants: tuple[RoleGrant, ...] = ()


@dataclass(frozen=True)
class ManagedIdentity:
    """A user-assigned managed identity; ``id`` is its ARM resource ID."""

    id: str
    tenant_id: str
    name: str
    location: str
    tags: dict[str, str]
    client_id: str
    principal_id: str


@dataclass(frozen=True)
class FederatedCredential:
    """An identity's trust in an external issuer, subject and audience. It takes effect at ``effective_at`` (Unix seconds)."""

    identity_id: str
    name: str
    issuer: str
    subject: str
    audiences: tuple[str, ...]
    effective_at: float

    @property
    def id(self) -> str:
        """ARM resource ID."""
        return f"{self.identity_id}/federatedIdentityCredentials/{self.name}"


@dataclass(frozen=True)
class Assignment:
    """A role assignment. It takes effect for data planes at ``effective_at`` (Unix seconds)."""

    scope: str
    name: str
    role_id: str
    principal_id: str
    principal_type: str
    created_by: str
    created_at: float
    effective_at: float

    @property
    def id(self) -> str:
        """ARM resource ID."""
        return f"{self.scope}/providers/Microsoft.Authorization/roleAssignments/{self.name}"


@dataclass(frozen=True)
class Account:
    """An account that can get tokens: a configured principal or a managed identity."""

    kind: Literal["user", "service-principal", "managed-identity"]
    tenant_id: str
    client_id: str
    object_id: str
    name: str
    username: str | None
    secret: bytes | None
    identity_id: str | None


class Directory:
    """The configured principals and the SQLite state. Every method is atomic and thread-safe."""

    def __init__(
        self,
        database: Path,
        *,
        tenants: Sequence[Tenant],
        principals: Sequence[Principal],
        subscriptions: Sequence[Subscription],
        propagation_seconds: float,
    ) -> None:
        self.tenants = {tenant.id: tenant for tenant in tenants}
        self._domains = {tenant.domain.lower(): tenant for tenant in tenants}
        self.subscriptions = {subscription.id: subscription for subscription in subscriptions}
        self._propagation = propagation_seconds
        self._accounts = {
            (p.tenant_id, p.client_id): Account(
                p.kind, p.tenant_id, p.client_id, p.object_id, p.name, p.username, p.client_secret_file.read_bytes().strip(), None
            )
            for p in principals
        }
        self._lock = threading.RLock()
        database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(database, check_same_thread=False, isolation_level=None)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def tenant(self, name: str) -> Tenant | None:
        """Return the tenant with this ID or domain, or None."""
        return self.tenants.get(name.lower()) or self._domains.get(name.lower())

    def account(self, tenant_id: str, client_id: str) -> Account | None:
        """Return the account with an application (client) ID in a tenant, or None."""
        found = self._accounts.get((tenant_id, client_id.lower()))
        if found is not None:
            return found
        rows = self._query("SELECT * FROM identities WHERE tenant_id = ? AND client_id = ?", tenant_id, client_id.lower())
        return next((_account(_identity(row)) for row in rows), None)

    def account_by_object(self, tenant_id: str, object_id: str) -> Account | None:
        """Return the account with an object (principal) ID in a tenant, or None."""
        wanted = object_id.lower()
        for account in self._accounts.values():
            if (account.tenant_id, account.object_id) == (tenant_id, wanted):
                return account
        rows = self._query("SELECT * FROM identities WHERE tenant_id = ? AND principal_id = ?", tenant_id, wanted)
        return next((_account(_identity(row)) for row in rows), None)

    # Managed identities

    def identity(self, resource_id: str) -> ManagedIdentity | None:
        """Return a managed identity, or None."""
        rows = self._query("SELECT * FROM identities WHERE key = ?", resource_id.lower())
        return next((_identity(row) for row in rows), None)

    def identities(self, prefix: str) -> list[ManagedIdentity]:
        """Return the identities whose resource ID starts with ``prefix`` and a slash, ordered by ID."""
        wanted = f"{prefix.lower()}/"
        rows = self._query("SELECT * FROM identities ORDER BY key")
        return [_identity(row) for row in rows if row["key"].startswith(wanted)]

    def put_identity(
        self, resource_id: str, tenant_id: str, name: str, location: str, tags: dict[str, str]
    ) -> tuple[ManagedIdentity, bool]:
        """Create an identity or update its tags; return it, and whether it is new. Its client and object IDs never change."""
        with self._lock:
            old = self.identity(resource_id)
            if old is None:
                self._query(
                    "INSERT INTO identities VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    resource_id.lower(), resource_id, tenant_id, name, location, json.dumps(tags), str(uuid.uuid4()), str(uuid.uuid4()),
                )  # fmt: skip
            else:
                self._query("UPDATE identities SET tags = ? WHERE key = ?", json.dumps(tags), resource_id.lower())
            new = self.identity(resource_id)
            assert new is not None
            return new, old is None

    def delete_identity(self, resource_id: str) -> bool:
        """Delete an identity and its federated credentials; return whether it existed."""
        with self._lock:
            self._query("DELETE FROM federated WHERE identity_key = ?", resource_id.lower())
            return bool(self._query("DELETE FROM identities WHERE key = ? RETURNING key", resource_id.lower()))

    # Federated credentials

    def federated(self, identity_id: str) -> list[FederatedCredential]:
        """Return the federated credentials of an identity, ordered by name."""
        rows = self._query("SELECT * FROM federated WHERE identity_key = ? ORDER BY name_key", identity_id.lower())
        return [
            FederatedCredential(
                row["identity_id"], row["name"], row["issuer"], row["subject"], tuple(json.loads(row["audiences"])), row["effective_at"]
            )
            for row in rows
        ]

    def put_federated(
        self, identity_id: str, name: str, issuer: str, subject: str, audiences: Sequence[str]
    ) -> tuple[FederatedCredential, bool]:
        """Create or replace a credential; return it, and whether it is new. Changed content has to propagate again."""
        with self._lock:
            old = next((item for item in self.federated(identity_id) if item.name.lower() == name.lower()), None)
            same = old is not None and (old.issuer, old.subject, old.audiences) == (issuer, subject, tuple(audiences))
            effective = old.effective_at if old is not None and same else time.time() + self._propagation
            self._query(
                "INSERT OR REPLACE INTO federated VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                identity_id.lower(), name.lower(), identity_id, name, issuer, subject, json.dumps(list(audiences)), effective,
            )  # fmt: skip
            return FederatedCredential(identity_id, name, issuer, subject, tuple(audiences), effective), old is None

    def delete_federated(self, identity_id: str, name: str) -> bool:
        """Delete a federated credential; return whether it existed."""
        return bool(
            self._query(
                "DELETE FROM federated WHERE identity_key = ? AND name_key = ? RETURNING name_key", identity_id.lower(), name.lower()
            )
        )

    # Role assignments

    def assignments(self, principal_id: str | None = None) -> list[Assignment]:
        """Return all role assignments or those of one principal, including the configured grants, at any scope."""
        rows = self._query("SELECT * FROM assignments ORDER BY created_at, name")
        found = [Assignment(*tuple(row)[1:]) for row in rows]
        return [a for a in found if principal_id is None or a.principal_id == principal_id.lower()]

    def add_assignment(self, scope: str, name: str, role_id: str, principal_id: str, principal_type: str, created_by: str) -> Assignment:
        """Add a role assignment, which takes effect after the propagation delay."""
        now = time.time()
        assignment = Assignment(scope, name, role_id, principal_id.lower(), principal_type, created_by, now, now + self._propagation)
        self._insert_assignment(assignment)
        return assignment

    def seed_assignments(self, assignments: Iterable[Assignment]) -> None:
        """Add the configured grants; existing ones stay unchanged."""
        for assignment in assignments:
            self._insert_assignment(assignment)

    def delete_assignment(self, assignment: Assignment) -> None:
        """Delete a role assignment."""
        self._query("DELETE FROM assignments WHERE key = ?", assignment.id.lower())

    def _insert_assignment(self, a: Assignment) -> None:
        self._query(
            "INSERT OR IGNORE INTO assignments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            a.id.lower(), a.scope, a.name, a.role_id, a.principal_id, a.principal_type, a.created_by, a.created_at, a.effective_at,
        )  # fmt: skip

    def _query(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            cursor = self._db.cursor()
            cursor.row_factory = sqlite3.Row
            return list(cursor.execute(sql, values).fetchall())


def _identity(row: sqlite3.Row) -> ManagedIdentity:
    return ManagedIdentity(
        row["id"], row["tenant_id"], row["name"], row["location"], json.loads(row["tags"]), row["client_id"], row["principal_id"]
    )


def _account(identity: ManagedIdentity) -> Account:
    return Account(
        "managed-identity", identity.tenant_id, identity.client_id, identity.principal_id, identity.name, None, None, identity.id
    )


class DirectoryConfig(_Model):
    """The directory's fields of the config file."""

    tenants: tuple[Tenant, ...]
    principals: tuple[Principal, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    propagation_seconds: float = Field(default=0.0, ge=0)


# ARM compares resource IDs case-insensitively; the key columns hold the lower-case form.
_SCHEMA = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS identities (
  key TEXT PRIMARY KEY, id TEXT NOT NULL, tenant_id TEXT NOT NULL, name TEXT NOT NULL, location TEXT NOT NULL, tags TEXT NOT NULL,
  client_id TEXT NOT NULL UNIQUE, principal_id TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS federated (
  identity_key TEXT NOT NULL, name_key TEXT NOT NULL, identity_id TEXT NOT NULL, name TEXT NOT NULL, issuer TEXT NOT NULL,
  subject TEXT NOT NULL, audiences TEXT NOT NULL, effective_at REAL NOT NULL, PRIMARY KEY (identity_key, name_key));
CREATE TABLE IF NOT EXISTS assignments (
  key TEXT PRIMARY KEY, scope TEXT NOT NULL, name TEXT NOT NULL, role_id TEXT NOT NULL, principal_id TEXT NOT NULL,
  principal_type TEXT NOT NULL, created_by TEXT NOT NULL, created_at REAL NOT NULL, effective_at REAL NOT NULL);
"""
