"""The data converter of clients, workers, replayers, the codec server and command-line tools.

It combines pydantic JSON, the payload codec if there is a keyring, and failures whose message and stack trace are payloads too.
Conversion errors are raised as ``ApplicationError`` and name types and kinds of errors, never the content.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, Final, Literal

import pydantic
from pydantic_core import PydanticSerializationError
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverter,
    DefaultPayloadConverter,
    EncodingPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadConverter,
)
from temporalio.exceptions import ApplicationError, FailureError

from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.temporal.codec import ENCODING, TOMBSTONE, PayloadCodec
from cleanroom.temporal.failures import application_error, translated
from cleanroom.temporal.keyring import CodecKeyUnknown, Keyring, KeyringMissing

REMEDY: Final = "Send it with a `cleanroom` command of the same release as the workers."


def data_converter(
    keyring: Keyring | None, *, accept_unbound: bool = False, scope: Literal["workflow", "schedule"] = "workflow"
) -> DataConverter:
    """Create the data converter.

    Args:
        keyring: Keys of the codec. Without it, payloads and failures are plain text, which is for development only.
        accept_unbound: See :class:`~cleanroom.temporal.codec.PayloadCodec`.
        scope: See :class:`~cleanroom.temporal.codec.PayloadCodec`.
    """
    if keyring is None:
        return DataConverter(payload_converter_class=CleanRoomPayloadConverter, failure_converter_class=CleanRoomFailureConverter)
    return DataConverter(
        payload_converter_class=CleanRoomPayloadConverter,
        payload_codec=PayloadCodec(keyring, accept_unbound=accept_unbound, scope=scope),
        failure_converter_class=EncodedFailureConverter,
    )


class _JSON(PydanticJSONPlainPayloadConverter):
    """Pydantic JSON whose errors do not quote the content."""

    def to_payload(self, value: Any) -> Payload | None:
        try:
            return super().to_payload(value)
        except (PydanticSerializationError, TypeError, ValueError) as error:
            raise application_error(
                InvalidInput(
                    "PayloadUnserialisable",
                    f"A value of type {type(value).__name__} cannot be serialised ({type(error).__name__}); secrets never can.",
                )
            ) from None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        try:
            return super().from_payload(payload, type_hint)
        except pydantic.ValidationError as error:
            raise _malformed(_explain(error, type_hint)) from None
        except (ValueError, TypeError) as error:
            raise _malformed(f"A payload is not a {_name(type_hint)} ({type(error).__name__}).") from None


class _Tombstone(EncodingPayloadConverter):
    """Raises the error of a payload that the codec refused; see :mod:`cleanroom.temporal.codec`."""

    @property
    def encoding(self) -> str:
        return TOMBSTONE.decode()

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        value = json.loads(payload.data)
        if value["code"] == "CodecKeyUnknown":
            raise CodecKeyUnknown(value["message"], value.get("hint"))
        raise application_error(Refused(value["code"], value["message"], hint=value.get("hint"), party="operator"))


class _Encrypted(EncodingPayloadConverter):
    """Raises for an encrypted payload in a process without a codec."""

    @property
    def encoding(self) -> str:
        return ENCODING.decode()

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        raise KeyringMissing("the payload is encrypted, and this process has no codec keyring")


class _Typed(EncodingPayloadConverter):
    """A converter of the SDK whose values have the expected type. It decodes null to None, and bytes to bytes, whatever is expected."""

    def __init__(self, converter: EncodingPayloadConverter) -> None:
        self._converter = converter

    @property
    def encoding(self) -> str:
        return self._converter.encoding

    def to_payload(self, value: Any) -> Payload | None:
        return self._converter.to_payload(value)

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        value = self._converter.from_payload(payload, type_hint)
        if type_hint is None or type_hint is Any or (isinstance(type_hint, type) and isinstance(value, type_hint)):
            return value
        try:
            return _adapter(type_hint).validate_python(value, strict=True)
        except pydantic.ValidationError:
            raise _malformed(f"A payload is not a {_name(type_hint)} ({type(value).__name__}).") from None


# Shared by all instances. The SDK creates a converter per workflow run, and rebuilding the pydantic adapters would cost more than the run.
_CONVERTERS: tuple[EncodingPayloadConverter, ...] = (
    *(
        _JSON() if isinstance(converter, JSONPlainPayloadConverter) else _Typed(converter)
        for converter in DefaultPayloadConverter.default_encoding_payload_converters
    ),
    _Tombstone(),
    _Encrypted(),
)


class CleanRoomPayloadConverter(CompositePayloadConverter):
    """The SDK's converters with pydantic JSON, and converters that raise for refused and encrypted payloads.

    A payload that cannot be decoded is an ``ApplicationError``, which fails the workflow
    or the message that has it. Any other exception would fail the workflow *task*, which the server repeats forever.
    """

    def __init__(self) -> None:
        super().__init__(*_CONVERTERS)

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        """Decode payloads; called by the SDK."""
        try:
            return super().from_payloads(payloads, type_hints)
        except (FailureError, KeyringMissing):
            raise
        except Exception as error:  # such as a KeyError for an unknown encoding
            raise _malformed(f"A payload cannot be decoded ({type(error).__name__}).") from None


class CleanRoomFailureConverter(DefaultFailureConverter):
    """Preserves :class:`CleanRoomError` wherever it is raised, and replaces an unreadable failure by the reason."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Encode an exception; called by the SDK."""
        if isinstance(exception, CleanRoomError):
            exception = application_error(exception).with_traceback(exception.__traceback__)
        elif isinstance(exception, pydantic.ValidationError):
            # Its text quotes the input.
            exception = translated(exception).with_traceback(exception.__traceback__)
        super().to_failure(exception, payload_converter, failure)

    def from_failure(self, failure: Failure, payload_converter: PayloadConverter) -> BaseException:
        """Decode a failure; called by the SDK."""
        try:
            return super().from_failure(failure, payload_converter)
        except ApplicationError as error:
            return error


class EncodedFailureConverter(CleanRoomFailureConverter):
    """Also moves message and stack trace into a payload, which the codec encrypts."""

    def __init__(self) -> None:
        super().__init__(encode_common_attributes=True)


def _malformed(message: str) -> ApplicationError:
    return application_error(InvalidInput("PayloadMalformed", message, hint=REMEDY))


@functools.lru_cache(maxsize=256)
def _adapter(type_hint: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(type_hint)


@functools.lru_cache(maxsize=1024)
def _name(type_hint: Any) -> str:
    return getattr(type_hint, "__name__", None) or str(type_hint)[:200]


def _explain(error: pydantic.ValidationError, type_hint: Any) -> str:
    """Name the kinds of errors and the model's own fields. Deeper locations may be keys from the content."""
    fields = getattr(type_hint, "model_fields", {})
    found = set()
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        place = str(item["loc"][0]) if item["loc"] and item["loc"][0] in fields else "value"
        found.add(f"{place} ({item['type']})")
    return f"A payload is not a valid {_name(type_hint)}: {', '.join(sorted(found))}."
