"""The payload codec: encrypts every payload with AES-256-GCM and binds it to the execution that it belongs to.

Clients, workers and replayers use it through :func:`cleanroom.temporal.converter.data_converter`, and the codec server uses it directly.
An encrypted payload is::

    metadata["encoding"]  = b"binary/encrypted"
    metadata["cr-header"] = netstrings: version, key ID, namespace, kind, ID, original encoding, nonce (12 bytes)
    data                  = ciphertext || tag (16 bytes)

The header is the associated data (RFC 5116). Netstrings carry their length, so the header is unambiguous; it is also readable in the
Web UI. Because it contains the binding, a codec server that is not given a workflow ID can decrypt the payload, while a worker compares
the binding with the context that the SDK provides (:class:`temporalio.converter.WithSerializationContext`). Kinds of binding:

* ``w``, workflow ID: inputs, results, signals, updates, queries, memo and summaries of a workflow, inputs, results and heartbeat details
  of its activities, failures. Accepted in that workflow.
* ``a``, activity ID: an activity that no workflow started. Accepted for that activity.
* ``s``, workflow ID prefix of a schedule: from a client created with ``scope="schedule"``. Accepted as input of workflows named
  ``<prefix>-<time>``, which is how the server names scheduled runs.
* ``u``, empty: the context is unknown. The codec server's ``/encode`` produces it, because the Web UI's "Send a Signal" does not name the
  workflow, and so do schedule memos and activity completions by task token. Accepted where the context is unknown. A codec created with
  ``accept_unbound=True`` also accepts it as input or message of a workflow, but never of an activity.

Plain text is refused whatever its encoding, including ``binary/null``, because a missing result must be authentic too. There are no
exceptions: the server creates no payloads that a codec sees. Search attributes and the server's own failures (timeouts, terminations)
bypass the codec.

A refused payload does not raise in :meth:`PayloadCodec.decode`. It becomes a *tombstone* (encoding ``binary/refused``), from which the
payload converter raises. A forged signal is then one dropped signal, and a forged result one failed workflow. An exception in the codec
would fail the workflow *task* instead. The SDK retries tasks forever, so one bad signal would block an approval. The tombstone of a
payload under an unknown key raises :class:`~cleanroom.temporal.keyring.CodecKeyUnknown`. In an input or a result that fails the workflow
task, because the operator must add the key and the workflow should wait for that. The server flags such a workflow, and `cleanroom
doctor` and an alert name it. In a signal it drops the signal.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import temporalio.converter
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload
from temporalio.converter import ActivitySerializationContext, SerializationContext, WithSerializationContext, WorkflowSerializationContext

from cleanroom.errors import CleanRoomError, PreconditionFailed, Refused
from cleanroom.temporal.keyring import Keyring

__all__ = ["ENCODING", "HEADER", "TOMBSTONE", "Keyring", "PayloadCodec", "tombstone"]

ENCODING: Final = b"binary/encrypted"
TOMBSTONE: Final = b"binary/refused"
HEADER: Final = "cr-header"
_VERSION: Final = b"1"
_WHOLE: Final = b"*"
"""Replaces the original encoding if the metadata has more members: the plaintext is then the whole serialised payload."""
_NONCE: Final = 12
_TAIL: Final = _NONCE + 1
"""Length of the nonce and the final comma: the only part of a header that differs between payloads of one binding."""
_CACHE: Final = 4096
_CACHE_ENTRIES: Final = 64
_MAX_HEADER: Final = 4096
_SCHEDULED = re.compile(r"-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\Z")

Binding = tuple[str, str, str]
"""Namespace, kind and ID."""
_Seal = tuple[AESGCM, bytes, bytes]
"""Cipher, header up to the nonce, and serialised metadata up to the header. Parsing the latter is faster than setting a protobuf map."""
_Opener = tuple[AESGCM, bool, bytes]
"""Cipher, whether the plaintext is a whole payload, and serialised metadata."""


class PayloadCodec(temporalio.converter.PayloadCodec, WithSerializationContext):
    """Encrypts and decrypts payloads; the module's docstring has the format and the rules.

    Args:
        keyring: The keys.
        accept_unbound: Accept kind ``u`` as a workflow's input and messages. For workers whose workflows people signal from the Web UI;
            these signals carry their own signature.
        scope: ``schedule`` for a client that creates schedules, else ``workflow``.
    """

    def __init__(self, keyring: Keyring, *, accept_unbound: bool = False, scope: Literal["workflow", "schedule"] = "workflow") -> None:
        self.keyring = keyring
        self.accept_unbound = accept_unbound
        self.scope = scope
        self._binding: Binding | None = None
        self._activity = False
        self._namespace = ""
        # Shared by all copies, because the SDK calls with_context for every workflow task.
        self._shared: dict[tuple[Binding | None, str, bool], _Prepared] = {}
        self._prepared = _Prepared()

    def with_context(self, context: SerializationContext) -> PayloadCodec:
        """Return a copy that is bound to the execution in ``context``."""
        copy = object.__new__(PayloadCodec)
        copy.__dict__.update(self.__dict__)
        copy._activity = False
        if isinstance(context, WorkflowSerializationContext):
            copy._binding = (context.namespace, "s" if self.scope == "schedule" else "w", context.workflow_id)
        elif isinstance(context, ActivitySerializationContext):
            copy._activity = True
            if context.workflow_id:
                copy._binding = (context.namespace, "w", context.workflow_id)
            else:
                copy._binding = (context.namespace, "a", context.activity_id or "")
        else:
            copy._binding = None
        copy._share()
        return copy

    def unbound(self, namespace: str) -> PayloadCodec:
        """Return a copy for a caller that knows only the namespace: it encrypts kind ``u`` and decrypts everything of that namespace."""
        copy = object.__new__(PayloadCodec)
        copy.__dict__.update(self.__dict__)
        copy._activity = False
        copy._binding = None
        copy._namespace = namespace
        copy._share()
        return copy

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt each payload with the current key."""
        return [self.seal(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt each payload. A refused one, and one under an unknown key, becomes a tombstone."""
        opened = []
        for payload in payloads:
            try:
                opened.append(self.open(payload))
            except (Refused, PreconditionFailed) as error:
                opened.append(tombstone(error))
        return opened

    def seal(self, payload: Payload) -> Payload:
        """Encrypt one payload."""
        metadata = payload.metadata
        encoding = metadata.get("encoding", _WHOLE) if len(metadata) == 1 else _WHOLE
        seal = self._prepared.seals.get(encoding)
        if seal is None:
            seal = self._new_seal(encoding)
        cipher, prefix, head = seal
        nonce = os.urandom(_NONCE)
        header = prefix + nonce + b","
        sealed = Payload.FromString(head + header)
        sealed.data = cipher.encrypt(nonce, payload.data if encoding != _WHOLE else payload.SerializeToString(), header)
        return sealed

    def open(self, payload: Payload) -> Payload:
        """Decrypt one payload.

        Raises:
            Refused: ``PayloadNotEncrypted``, ``PayloadMarkerStripped``, ``PayloadTampered``, ``PayloadMisbound``, ``PayloadUnbound``.
            PreconditionFailed: ``CodecKeyUnknown``.
        """
        metadata = payload.metadata
        raw = metadata.get(HEADER)
        if raw is None or len(metadata) != 2 or metadata.get("encoding") != ENCODING:
            raise _not_encrypted(payload)
        prefix = raw[:-_TAIL]
        known = self._prepared.opens.get(prefix)
        opener = known or self._new_opener(raw, prefix)
        cipher, whole, head = opener
        try:
            plain = cipher.decrypt(raw[-_TAIL:-1], payload.data, raw)
        except (InvalidTag, ValueError):
            raise _refused("PayloadTampered", "its authentication tag does not match its content and header") from None
        if known is None:
            # Only authentic headers are cached.
            self._prepared.remember(prefix, opener)
        if whole:
            try:
                return Payload.FromString(plain)
            except DecodeError:
                raise _refused("PayloadTampered", "its content is not a payload") from None
        opened = Payload.FromString(head)
        opened.data = plain
        return opened

    def _share(self) -> None:
        key = (self._binding, self._namespace, self._activity)
        prepared = self._shared.get(key)
        if prepared is None:
            if len(self._shared) >= _CACHE:
                self._shared.clear()
            prepared = self._shared[key] = _Prepared()
        self._prepared = prepared

    def _new_seal(self, encoding: bytes) -> _Seal:
        binding = self._binding or (self._namespace, "u", "")
        key_id = self.keyring.current
        prefix = _pack(_VERSION, key_id.encode(), *(part.encode() for part in binding), encoding) + b"%d:" % _NONCE
        # Serialise a header of the right length and cut it off. All headers of this seal have that length.
        blank = prefix + bytes(_TAIL)
        head = Payload(metadata={"encoding": ENCODING}).SerializeToString() + Payload(metadata={HEADER: blank}).SerializeToString()
        seal = (self.keyring.cipher(key_id, binding[0]), prefix, head.removesuffix(blank))
        if len(self._prepared.seals) < _CACHE_ENTRIES:
            self._prepared.seals[encoding] = seal
        return seal

    def _new_opener(self, raw: bytes, prefix: bytes) -> _Opener:
        """Parse a header and compare its binding with the context."""
        if len(raw) > _MAX_HEADER:
            raise _refused("PayloadTampered", "its codec header is too long")
        parts = _unpack(prefix.removesuffix(b"%d:" % _NONCE)) if prefix.endswith(b",%d:" % _NONCE) else []
        if len(parts) != 6 or parts[0] != _VERSION:
            raise _refused("PayloadTampered", "its codec header has an unknown version or format")
        try:
            key_id, namespace, kind, name = (part.decode() for part in parts[1:5])
        except UnicodeDecodeError:
            raise _refused("PayloadTampered", "its codec header is not UTF-8") from None
        if kind not in ("w", "a", "s", "u"):
            raise _refused("PayloadTampered", "its codec header names an unknown kind of binding")
        bound = (namespace, kind, name)
        if self._binding is not None:
            if bound != self._binding:
                self._compare(bound, self._binding)
        elif self._namespace and namespace not in ("", self._namespace):
            raise _refused("PayloadMisbound", f"it belongs to {_describe(bound)} and was presented in namespace {self._namespace!r}")
        encoding = parts[5]
        return self.keyring.cipher(key_id, namespace), encoding == _WHOLE, Payload(metadata={"encoding": encoding}).SerializeToString()

    def _compare(self, bound: Binding, context: Binding) -> None:
        namespace, kind, name = bound
        if kind == "u":
            if self.accept_unbound and not self._activity and namespace in ("", context[0]):
                return
            raise _refused(
                "PayloadUnbound",
                "it is not bound to a workflow, and this worker does not accept unbound payloads",
                "Send it with a client that sets the workflow ID.",
            )
        if (
            kind == "s"
            and not self._activity
            and namespace == context[0]
            and context[2].startswith(name)
            and _SCHEDULED.fullmatch(context[2], len(name))
        ):
            return
        raise _refused("PayloadMisbound", f"it belongs to {_describe(bound)} and was presented in {_describe(context)}")


class _Prepared:
    """Caches of one binding: seals by original encoding, and openers by header without its nonce."""

    __slots__ = ("opens", "seals")

    def __init__(self) -> None:
        self.seals: dict[bytes, _Seal] = {}
        self.opens: dict[bytes, _Opener] = {}

    def remember(self, prefix: bytes, opener: _Opener) -> None:
        if len(self.opens) >= _CACHE_ENTRIES:
            self.opens.clear()
        self.opens[prefix] = opener


def tombstone(error: CleanRoomError) -> Payload:
    """Return the replacement of a refused payload: the error's code and message without the content."""
    return Payload(
        metadata={"encoding": TOMBSTONE}, data=json.dumps({"code": error.code, "message": error.message, "hint": error.hint}).encode()
    )


def _pack(*parts: bytes) -> bytes:
    return b"".join(b"%d:%s," % (len(part), part) for part in parts)


def _unpack(raw: bytes) -> list[bytes]:
    """Parse netstrings strictly: canonical lengths and no trailing bytes. A malformed header gives an empty list."""
    parts: list[bytes] = []
    at = 0
    while at < len(raw):
        colon = raw.find(b":", at, at + 6)
        digits = raw[at:colon]
        if colon < 0 or not digits.isdigit() or (digits[:1] == b"0" and digits != b"0"):
            return []
        end = colon + 1 + int(digits)
        if raw[end : end + 1] != b",":
            return []
        parts.append(raw[colon + 1 : end])
        at = end + 1
    return parts


def _describe(binding: Binding) -> str:
    kind = {"w": "workflow", "a": "activity", "s": "schedule", "u": "nothing"}[binding[1]]
    return f"{kind} {binding[2]!r} in namespace {binding[0]!r}"


def _not_encrypted(payload: Payload) -> Refused:
    """Return the error for a payload that is not in this codec's format."""
    if payload.metadata.get("encoding") == ENCODING:
        return _refused("PayloadTampered", "its codec header is missing or its metadata was extended")
    if HEADER in payload.metadata:
        return _refused("PayloadMarkerStripped", "it carries a codec header but is not marked as encrypted")
    return _refused(
        "PayloadNotEncrypted", "it is not encrypted", "Send it through the codec server, or with a client that has the keyring."
    )


def _refused(code: str, what: str, hint: str | None = None, **details: Any) -> Refused:
    return Refused(code, f"A payload was refused: {what}.", hint=hint, party="operator", details=details)
