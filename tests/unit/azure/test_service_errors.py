"""Error responses of ARM, through the unmodified SDK, map to one category."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanroom.clients.azure import (
    ManagedIdentities,
)
from cleanroom.errors import CleanRoomError, Conflict, InvalidInput, NotFound, PreconditionFailed, Refused, Unavailable
from localcloud.standins.serving import serving
from localcloud.tls import LocalAuthority
from tests.azure_factories import (
    user_credential,
)
from tests.servers import AzureWorld


@pytest.fixture(scope="module")
def arm(azure_world: AzureWorld, local_authority: LocalAuthority) -> Iterator[ManagedIdentities]:
    async def answer(request: Request) -> Response:
        status, code = request.path_params["name"].split("-")
        body = {"error": {"code": code, "message": "so it is"}} if code != "none" else {"unexpected": True}
        return JSONResponse(body, int(status), headers={"Retry-After": "0", "Location": str(request.url.replace(path="/elsewhere"))})

    path = "/subscriptions/{s}/resourceGroups/{g}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
    with serving(Starlette(routes=[Route(path, answer)]), "arm", local_authority.issue("arm")) as url:
        settings = azure_world.azure("contosso").model_copy(update={"arm_url": url})
        yield ManagedIdentities(user_credential(azure_world), settings, ca_file=azure_world.ca_file)


class Row(NamedTuple):
    """ARM's status and code (``none`` for a body without a code), and the expected error."""

    answer: str
    category: type[CleanRoomError]
    code: str
    retryable: bool = False


@pytest.mark.parametrize(
    "row",
    [
        Row("400-BadRequest", InvalidInput, "BadRequest"),
        Row("401-ExpiredAuthenticationToken", PreconditionFailed, "ExpiredAuthenticationToken"),
        Row("403-AuthorizationFailed", PreconditionFailed, "AuthorizationFailed", retryable=True),
        Row("404-ResourceNotFound", NotFound, "ResourceNotFound"),
        Row("409-Conflict", Conflict, "Conflict"),
        Row("412-PreconditionFailed", Conflict, "PreconditionFailed"),
        Row("429-TooManyRequests", Unavailable, "TooManyRequests", retryable=True),
        Row("500-InternalServerError", Unavailable, "InternalServerError", retryable=True),
        Row("503-none", Unavailable, "Http503", retryable=True),
        Row("302-none", Refused, "RedirectRefused"),
        Row("307-none", Refused, "RedirectRefused"),
    ],
    ids=lambda row: row.answer,
)
def test_error_responses_map_to_one_category(arm: ManagedIdentities, row: Row) -> None:
    with pytest.raises(CleanRoomError) as caught:
        arm.get(row.answer)
    assert type(caught.value) is row.category
    assert (caught.value.code, caught.value.retryable) == (row.code, row.retryable)
    assert row.answer in caught.value.message


def test_an_unreachable_service_is_unavailable(azure_world: AzureWorld) -> None:
    settings = azure_world.azure("contosso").model_copy(update={"arm_url": "https://localhost:9"})
    with pytest.raises(Unavailable, match="AzureUnreachable"):
        ManagedIdentities(user_credential(azure_world), settings, ca_file=azure_world.ca_file).get("flights")
