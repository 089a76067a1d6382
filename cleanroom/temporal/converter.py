"""The one data converter: for clients, workers, replayers, the codec server and command line tools.

Pydantic v2 JSON, the payload codec when there is a keyring, and failures whose message and stack trace are payloads too. What goes wrong
in a conversion is raised as an :class:`ApplicationError` that names types and error kinds and never the content.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Literal

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
from temporalio.exceptions import ApplicationError

from cleanroom.errors import CleanRoomError, InvalidInput, Refused
from cleanroom.temporal.codec import ENCODING, TOMBSTONE, PayloadCodec
from cleanroom.temporal.failures import application_error, translated
from cleanroom.temporal.keyring import Keyring


def data_converter(
    keyring: Keyring | None, *, accept_unbound: bool = False, scope: Literal["workflow", "schedule"] = "workflow"
) -> DataConverter:
    """The data converter of this project.

    Args:
        keyring: Keys of the codec; None leaves payloads and failures in plain text (development only).
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
    """Pydantic JSON whose errors are free of contents."""

    def to_payload(self, value: Any) -> Payload | None:
        try:
            return super().to_payload(value)
        except (PydanticSerializationError, TypeError, ValueError) as error:
            raise _failure(
                InvalidInput(
                    "PayloadUnserialisable",
                    f"A value of type {type(value).__name__} refuses to be serialised ({type(error).__name__}); secrets do so on purpose.",
                )
            ) from None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        try:
            return super().from_payload(payload, type_hint)
        except pydantic.ValidationError as error:
            raise _failure(InvalidInput("PayloadMalformed", _explain(error, type_hint))) from None
        except (ValueError, TypeError) as error:
            raise _failure(InvalidInput("PayloadMalformed", f"A payload is no {_name(type_hint)} ({type(error).__name__}).")) from None


class _Tombstone(EncodingPayloadConverter):
    """Raises what the codec refused; see :mod:`cleanroom.temporal.codec`."""

    @property
    def encoding(self) -> str:
        return TOMBSTONE.decode()

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        value = json.loads(payload.data)
        raise _failure(Refused(value["code"], value["message"], hint=value.get("hint"), party="operator"))


class KeyringMissing(LookupError):
    """This process holds no keyring and met an encrypted payload.

    Not an error of ours by type: in workflow code those fail the workflow, and a worker started without its keyring must only make it wait.
    """


class _Sealed(EncodingPayloadConverter):
    """Says what is missing where there is no codec."""

    @property
    def encoding(self) -> str:
        return ENCODING.decode()

    def to_payload(self, value: Any) -> Payload | None:
        return None

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        raise KeyringMissing("the payload is encrypted and this process has no codec keyring; name its file in the Temporal settings")


# Shared by all instances: the SDK makes a converter for every workflow run, and building pydantic adapters anew each time would cost more
# than the run.
_CONVERTERS: tuple[EncodingPayloadConverter, ...] = (
    *(
        _JSON() if isinstance(converter, JSONPlainPayloadConverter) else converter
        for converter in DefaultPayloadConverter.default_encoding_payload_converters
    ),
    _Tombstone(),
    _Sealed(),
)


class CleanRoomPayloadConverter(CompositePayloadConverter):
    """The default converters with pydantic's JSON, and the one that raises for refused payloads."""

    def __init__(self) -> None:
        super().__init__(*_CONVERTERS)


class CleanRoomFailureConverter(DefaultFailureConverter):
    """Keeps :class:`CleanRoomError` whole wherever it is raised, and replaces a failure that cannot be read by its reason."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        if isinstance(exception, CleanRoomError):
            exception = application_error(exception).with_traceback(exception.__traceback__)
        elif isinstance(exception, pydantic.ValidationError):
            # Its text quotes the input.
            exception = translated(exception).with_traceback(exception.__traceback__)
        super().to_failure(exception, payload_converter, failure)

    def from_failure(self, failure: Failure, payload_converter: PayloadConverter) -> BaseException:
        try:
            return super().from_failure(failure, payload_converter)
        except ApplicationError as error:
            return error


class EncodedFailureConverter(CleanRoomFailureConverter):
    """The same, with message and stack trace moved into a payload, which the codec seals."""

    def __init__(self) -> None:
        super().__init__(encode_common_attributes=True)


def _failure(error: CleanRoomError) -> ApplicationError:
    return application_error(error)


@functools.lru_cache(maxsize=1024)
def _name(type_hint: Any) -> str:
    return getattr(type_hint, "__name__", None) or str(type_hint)[:200]


def _explain(error: pydantic.ValidationError, type_hint: Any) -> str:
    """Error kinds, and the fields of the model itself; deeper locations may be keys out of the content."""
    fields = getattr(type_hint, "model_fields", {})
    found = set()
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        place = str(item["loc"][0]) if item["loc"] and item["loc"][0] in fields else "value"
        found.add(f"{place} ({item['type']})")
    return f"A payload is no valid {_name(type_hint)}: {', '.join(sorted(found))}."
