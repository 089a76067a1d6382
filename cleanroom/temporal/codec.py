"""The payload codec: AES-256-GCM over every payload, bound to the execution that it belongs to.

Who calls this: :func:`cleanroom.temporal.converter.data_converter` (clients, workers, replayers) and the codec server.

A sealed payload is::

    metadata["encoding"]  = b"binary/encrypted"
    metadata["cr-header"] = netstrings: version, key id, namespace, kind, id, original encoding
    data                  = nonce (12 bytes) || ciphertext || tag (16 bytes)

The header *is* the associated data: length-prefixed, therefore unambiguous, readable in the Web UI, and authenticated. Because the
binding travels in it, a codec server that is told no workflow id can still open the payload, while a worker compares it with the context
that the SDK gives (:class:`temporalio.converter.WithSerializationContext`). Kinds:

* ``w``, workflow id: everything that has a workflow, which is inputs, results, signals, updates, queries, memo, summaries, activity inputs
  and results, heartbeat details, failures. Accepted in that workflow.
* ``a``, activity id: activities that no workflow started. Accepted for that activity.
* ``s``, workflow id prefix of a schedule: a client made with ``scope="schedule"``. Accepted as a workflow's input under
  ``<prefix>-<time>``, which is the id that the server gives to a scheduled run.
* ``u``, nothing: no context known, which is the codec server's ``/encode`` (the Web UI's "Send a Signal" names no workflow), schedule
  memos, asynchronous completion by task token. Accepted where no context is known, and as a workflow's input or message only by a codec
  made with ``accept_unbound=True``. Never as an activity's.

Fail closed: plaintext is refused whatever its encoding (``binary/null`` too: a missing result must be authentic). Nothing is exempt,
because the server itself makes no payloads that a codec sees: search attributes and its own failures (timeouts, terminations) pass the
codec by.

A refused payload does not raise in :meth:`PayloadCodec.decode`, it becomes a *tombstone* (encoding ``binary/refused``), from which the
payload converter raises. So a forged signal is one dropped signal and a forged result is one failed workflow; raising in the codec would
fail the workflow *task*, which retries for ever, and one bad signal would stop an approval for good. Only a missing key raises: that is
the operator's to mend, and waiting is right.
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

from cleanroom.errors import CleanRoomError, Refused
from cleanroom.temporal.keyring import Keyring

__all__ = ["ENCODING", "HEADER", "TOMBSTONE", "Keyring", "PayloadCodec", "tombstone"]

ENCODING: Final = b"binary/encrypted"
TOMBSTONE: Final = b"binary/refused"
HEADER: Final = "cr-header"
_VERSION: Final = b"1"
_WHOLE: Final = b"*"
"""In place of the original encoding: the plaintext is the whole serialised payload, because it has more metadata than its encoding."""
_NONCE: Final = 12
_OVERHEAD: Final = _NONCE + 16
_CACHE: Final = 4096
_SCHEDULED = re.compile(r"-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\Z")

Binding = tuple[str, str, str]
"""namespace, kind, id"""


class PayloadCodec(temporalio.converter.PayloadCodec, WithSerializationContext):
    """Seals and opens payloads; see the module's text for the format and the rules.

    Args:
        keyring: The keys.
        accept_unbound: Accept kind ``u`` as a workflow's input and messages. For the workers of workflows that people signal from the Web
        UI,
            whose messages prove their sender by a signature of their own.
        scope: ``schedule`` for the client that creates schedules, else ``workflow``.
    """

    def __init__(self, keyring: Keyring, *, accept_unbound: bool = False, scope: Literal["workflow", "schedule"] = "workflow") -> None:
        self.keyring = keyring
        self.accept_unbound = accept_unbound
        self.scope = scope
        self._binding: Binding | None = None
        self._activity = False
        self._namespace = ""
        # Shared by every copy that with_context makes: the SDK makes one a workflow task.
        self._seals: dict[tuple[Binding, bytes], tuple[AESGCM, bytes, Payload]] = {}
        self._headers: dict[bytes, _Header] = {}

    def with_context(self, context: SerializationContext) -> PayloadCodec:
        """A copy bound to the execution that ``context`` names."""
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
        return copy

    def unbound(self, namespace: str) -> PayloadCodec:
        """A copy for a caller that knows the namespace and no workflow: seals kind ``u``, opens everything of that namespace."""
        copy = object.__new__(PayloadCodec)
        copy.__dict__.update(self.__dict__)
        copy._activity = False
        copy._binding = None
        copy._namespace = namespace
        return copy

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Seal each payload under the current key."""
        return [self.seal(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Open each payload; a refused one becomes a tombstone.

        Raises:
            PreconditionFailed: ``CodecKeyUnknown``.
        """
        opened = []
        for payload in payloads:
            try:
                opened.append(self.open(payload))
            except Refused as error:
                opened.append(tombstone(error))
        return opened

    def seal(self, payload: Payload) -> Payload:
        """Seal one payload."""
        metadata = payload.metadata
        encoding = metadata.get("encoding", b"") if len(metadata) == 1 and not payload.external_payloads else _WHOLE
        binding = self._binding or (self._namespace, "u", "")
        cached = self._seals.get((binding, encoding))
        if cached is None:
            cached = self._new_seal(binding, encoding)
        cipher, header, template = cached
        nonce = os.urandom(_NONCE)
        data = payload.data if encoding != _WHOLE else payload.SerializeToString()
        sealed = Payload()
        sealed.CopyFrom(template)
        sealed.data = nonce + cipher.encrypt(nonce, data, header)
        return sealed

    def open(self, payload: Payload) -> Payload:
        """Open one payload.

        Raises:
            Refused: ``PayloadNotEncrypted``, ``PayloadMarkerStripped``, ``PayloadTampered``, ``PayloadMisbound``, ``PayloadUnbound``.
            PreconditionFailed: ``CodecKeyUnknown``.
        """
        metadata = payload.metadata
        raw = metadata.get(HEADER)
        if metadata.get("encoding") != ENCODING:
            if raw is not None:
                raise _refused("PayloadMarkerStripped", "it carries a codec header but is not marked as encrypted")
            raise _refused(
                "PayloadNotEncrypted", "it is not encrypted", "Send it through the codec server or with a client that holds the keyring."
            )
        if raw is None or len(metadata) != 2:
            raise _refused("PayloadTampered", "its codec header is missing or its metadata was extended")
        header = self._headers.get(raw)
        if header is None:
            header = self._remember(raw)
        binding = self._binding
        if binding is not None:
            if header.binding != binding:
                self._compare(header.binding, binding)
        elif self._namespace and header.binding[0] not in ("", self._namespace):
            raise _refused("PayloadMisbound", f"it belongs to {_say(header.binding)} and was presented in namespace {self._namespace!r}")
        data = payload.data
        if len(data) < _OVERHEAD:
            raise _refused("PayloadTampered", "it is too short to be sealed")
        try:
            plain = header.cipher.decrypt(data[:_NONCE], data[_NONCE:], raw)
        except InvalidTag:
            raise _refused("PayloadTampered", "its authentication tag does not match its content and header") from None
        opened = Payload()
        if header.encoding == _WHOLE:
            try:
                opened.ParseFromString(plain)
            except DecodeError:
                raise _refused("PayloadTampered", "its content is not a payload") from None
            return opened
        opened.CopyFrom(header.template)
        opened.data = plain
        return opened

    def _new_seal(self, binding: Binding, encoding: bytes) -> tuple[AESGCM, bytes, Payload]:
        key_id = self.keyring.current
        header = _pack(_VERSION, key_id.encode(), *(part.encode() for part in binding), encoding)
        template = Payload(metadata={"encoding": ENCODING, HEADER: header})
        entry = (self.keyring.cipher(key_id, binding[0]), header, template)
        if len(self._seals) >= _CACHE:
            self._seals.clear()
        self._seals[(binding, encoding)] = entry
        return entry

    def _remember(self, raw: bytes) -> _Header:
        header = _Header(raw, self.keyring)
        if len(self._headers) >= _CACHE:
            self._headers.clear()
        self._headers[raw] = header
        return header

    def _compare(self, bound: Binding, context: Binding) -> None:
        namespace, kind, name = bound
        if kind == "u":
            if self.accept_unbound and not self._activity and namespace in ("", context[0]):
                return
            raise _refused(
                "PayloadUnbound",
                "it is bound to no workflow, and none such is accepted here",
                "Send it with a client that names the workflow.",
            )
        if (
            kind == "s"
            and not self._activity
            and namespace == context[0]
            and context[2].startswith(name)
            and _SCHEDULED.fullmatch(context[2], len(name))
        ):
            return
        raise _refused("PayloadMisbound", f"it belongs to {_say(bound)} and was presented in {_say(context)}")


class _Header:
    """A parsed header: what opens payloads that carry it, and what they are bound to."""

    __slots__ = ("binding", "cipher", "encoding", "template")

    def __init__(self, raw: bytes, keyring: Keyring) -> None:
        parts = _unpack(raw)
        if len(parts) != 6 or parts[0] != _VERSION:
            raise _refused("PayloadTampered", "its codec header has an unknown version or form")
        try:
            key_id, namespace, kind, name = (part.decode() for part in parts[1:5])
        except UnicodeDecodeError:
            raise _refused("PayloadTampered", "its codec header is not UTF-8") from None
        if kind not in ("w", "a", "s", "u"):
            raise _refused("PayloadTampered", "its codec header names an unknown kind of binding")
        self.binding: Binding = (namespace, kind, name)
        self.encoding = parts[5]
        self.cipher = keyring.cipher(key_id, namespace)
        self.template = Payload(metadata={"encoding": self.encoding} if self.encoding else {})


def tombstone(error: CleanRoomError) -> Payload:
    """What stands in for a refused payload: code and message, nothing of its content."""
    return Payload(
        metadata={"encoding": TOMBSTONE}, data=json.dumps({"code": error.code, "message": error.message, "hint": error.hint}).encode()
    )


def _pack(*parts: bytes) -> bytes:
    return b"".join(b"%d:%s," % (len(part), part) for part in parts)


def _unpack(raw: bytes) -> list[bytes]:
    """Netstrings, strictly: canonical lengths, nothing left over. A malformed header unpacks to an empty list."""
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


def _say(binding: Binding) -> str:
    kind = {"w": "workflow", "a": "activity", "s": "schedule", "u": "nothing"}[binding[1]]
    return f"{kind} {binding[2]!r} in namespace {binding[0]!r}"


def _refused(code: str, what: str, hint: str | None = None, **details: Any) -> Refused:
    return Refused(code, f"A payload was refused: {what}.", hint=hint, party="operator", details=details)
