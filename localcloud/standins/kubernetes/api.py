"""The API routes of the Kubernetes stand-in, for the official ``kubernetes`` client; errors are ``Status`` objects."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from localcloud.standins.kubernetes.accounts import ALL_VERBS, Accounts
from localcloud.standins.kubernetes.pod_admission import require_admission
from localcloud.standins.kubernetes.selectors import field_selector, label_selector
from localcloud.standins.kubernetes.store import (
    NAMESPACES,
    PODS,
    QUOTAS,
    RESOURCES,
    SERVICES,
    SPARK_APPLICATIONS,
    VOLUME_CLAIMS,
    ApiFailure,
    Object,
    Resource,
    Store,
    conflict,
    timestamp,
)
from localcloud.standins.kubernetes.validation import pass_mutating_webhook, validate

GIT_VERSION = "v1.35.4-localcloud"
"""The version of the schemas (schemas/NOTICE.md)."""
_DEFAULT_WATCH_SECONDS = 1800


class Api:
    """The routes over a store.

    Args:
        store: The objects.
        accounts: The service accounts.
        log_file: Returns the path of a container's log; raises :class:`ApiFailure` if it does not exist.
    """

    def __init__(self, store: Store, accounts: Accounts, log_file: Callable[[Object, str | None], Path]) -> None:
        self._store, self._accounts, self._log_file = store, accounts, log_file

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the core group, of ``sparkoperator.k8s.io``, and of discovery."""
        discovery: dict[str, Object] = {
            "/version": {"major": "1", "minor": "35", "gitVersion": GIT_VERSION, "platform": "linux/amd64", **_BUILD},
            "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
            "/api/v1": _resource_list("v1"),
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(SPARK_APPLICATIONS)]},
            f"/apis/{SPARK_APPLICATIONS.group}": {**_group(SPARK_APPLICATIONS), "kind": "APIGroup", "apiVersion": "v1"},
            f"/apis/{SPARK_APPLICATIONS.api_version}": _resource_list(SPARK_APPLICATIONS.api_version),
        }
        result: list[BaseRoute] = [Route(path, _ok) for path in ("/readyz", "/livez")]
        for path, answer in discovery.items():
            # The official client sends a slash at the end, kubectl does not.
            result += [Route(path, self._discovery(answer)), Route(path + "/", self._discovery(answer))]
        for resource in RESOURCES:
            base = f"/apis/{resource.api_version}" if resource.group else "/api/v1"
            if resource.namespaced:
                result.append(Route(f"{base}/{resource.plural}", self._collection(resource), methods=["GET"]))
                base = f"{base}/namespaces/{{namespace}}"
            if resource is PODS:
                result.append(Route(f"{base}/pods/{{name}}/log", self._handle(self._log), methods=["GET"]))
                result.append(Route(f"{base}/pods/{{name}}/eviction", self._handle(self._evict), methods=["POST"]))
            result.append(Route(f"{base}/{resource.plural}/{{name}}/status", self._item(resource, "status"), methods=["GET"]))
            result.append(Route(f"{base}/{resource.plural}", self._collection(resource), methods=["GET", "POST", "DELETE"]))
            result.append(Route(f"{base}/{resource.plural}/{{name}}", self._item(resource), methods=["GET", "PUT", "PATCH", "DELETE"]))
        result.append(Route("/{path:path}", self._handle(self._unserved), methods=["GET", "POST", "PUT", "PATCH", "DELETE"]))
        return result

    def _handle(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            try:
                response: Response = await handler(request)
            except ApiFailure as failure:
                return JSONResponse(failure.status, failure.code)
            return response

        return handle

    def _discovery(self, answer: Object) -> Callable[[Request], Any]:
        async def discovery(request: Request) -> Response:
            self._accounts.allow(request, "get", None, None)
            return JSONResponse(answer)

        return self._handle(discovery)

    async def _unserved(self, request: Request) -> Response:
        """Answer for a resource that the stand-in does not serve. As the API server does, authorise the request before that."""
        found = _RESOURCE_PATH.fullmatch(request.url.path)
        if found is None:
            self._accounts.allow(request, "get", None, None)
        else:
            group, plural, namespace, name, sub = found.group("group", "plural", "namespace", "name", "sub")
            verb = (_VERBS if name else _COLLECTION_VERBS).get(request.method, "create")
            self._accounts.allow(request, verb, Resource(plural, "", group or ""), namespace, sub or "")
        raise ApiFailure(404, "NotFound", "the server could not find the requested resource")

    # --- collections

    def _collection(self, resource: Resource) -> Callable[[Request], Any]:
        async def collection(request: Request) -> Response:
            namespace = request.path_params.get("namespace")
            if request.method == "POST":
                return await self._create(request, resource, namespace)
            if request.method == "DELETE":
                return await self._delete_collection(request, resource, namespace)
            watching = request.query_params.get("watch", "").lower() in ("1", "true")
            self._accounts.allow(request, "watch" if watching else "list", resource, namespace)
            keep = self._selection(request, resource)
            if watching and request.headers.get("upgrade", "").lower() == "websocket":
                # Spark's client tries a WebSocket first. After this error it uses a streamed response, as all clients do behind a proxy.
                raise ApiFailure(503, "ServiceUnavailable", "WebSockets are not supported; watch with a streamed HTTP response")
            if watching:
                _number(request.query_params, "timeoutSeconds", _DEFAULT_WATCH_SECONDS)
                return StreamingResponse(self._watch(request, resource, namespace, keep), media_type="application/json")
            items = [item for item in self._store.objects(resource, namespace) if keep(item)]
            return JSONResponse(
                {
                    "apiVersion": resource.api_version,
                    "kind": f"{resource.kind}List",
                    "metadata": {"resourceVersion": str(self._store.version)},
                    "items": items,
                }
            )

        return self._handle(collection)

    async def _delete_collection(self, request: Request, resource: Resource, namespace: str | None) -> Response:
        self._accounts.allow(request, "deletecollection", resource, namespace)
        options, keep = await _body(request, optional=True), self._selection(request, resource)
        for item in [item for item in self._store.objects(resource, namespace) if keep(item)]:
            self._delete(resource, namespace or "", item["metadata"]["name"], options, request.query_params)
        return JSONResponse({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    def _selection(self, request: Request, resource: Resource) -> Callable[[Object], bool]:
        labels = label_selector(request.query_params.get("labelSelector", ""))
        fields = field_selector(resource, request.query_params.get("fieldSelector", ""))
        return lambda item: labels(item) and fields(item)

    async def _create(self, request: Request, resource: Resource, namespace: str | None) -> Response:
        self._accounts.allow(request, "create", resource, namespace)
        body = await _body(request)
        if body.get("kind", resource.kind) != resource.kind or body.get("apiVersion", resource.api_version) != resource.api_version:
            raise ApiFailure(400, "BadRequest", f"the object provided is unrecognized: expected {resource.api_version} {resource.kind}")
        if namespace is not None:
            self._store.get(NAMESPACES, "", namespace)
            named = (body.get("metadata") or {}).get("namespace")
            if named not in (None, namespace):
                raise ApiFailure(
                    400, "BadRequest", f"the namespace of the provided object does not match the namespace sent on the request: {named}"
                )
        body.pop("status", None)
        strict = request.query_params.get("fieldValidation") == "Strict"
        if resource is SPARK_APPLICATIONS:
            pass_mutating_webhook(body, strict=strict)
        warnings = validate(resource, body, strict=strict)
        if resource is PODS:
            require_admission(self._store, namespace or "", body, self._accounts.names)
        created = self._store.create(resource, namespace or "", body)
        return JSONResponse(created, 201, headers=_warning_header(warnings))

    async def _watch(
        self, request: Request, resource: Resource, namespace: str | None, keep: Callable[[Object], bool]
    ) -> AsyncIterator[bytes]:
        parameters = request.query_params
        deadline = time.monotonic() + _number(parameters, "timeoutSeconds", _DEFAULT_WATCH_SECONDS)
        start = parameters.get("resourceVersion", "")
        with self._store.subscription() as changed:
            version = int(start) if start.isdigit() else 0
            if version == 0:
                version = self._store.version
                for item in self._store.objects(resource, namespace):
                    if keep(item):
                        yield _line("ADDED", item)
            while True:
                changed.clear()
                try:
                    changes = self._store.since(version, resource, namespace)
                except ApiFailure as failure:
                    yield _line("ERROR", failure.status)
                    return
                version = max(version, self._store.version)
                for change in changes:
                    if keep(change.object):
                        yield _line(change.kind, change.object)
                remaining = deadline - time.monotonic()
                try:
                    async with asyncio.timeout(max(0.0, remaining)):
                        await changed.wait()
                except TimeoutError:
                    if parameters.get("allowWatchBookmarks", "").lower() == "true":
                        bookmark = {
                            "kind": resource.kind,
                            "apiVersion": resource.api_version,
                            "metadata": {"resourceVersion": str(version)},
                        }
                        yield _line("BOOKMARK", bookmark)
                    return

    # --- single objects

    def _item(self, resource: Resource, sub: str = "") -> Callable[[Request], Any]:
        async def item(request: Request) -> Response:
            name, namespace = request.path_params["name"], request.path_params.get("namespace")
            verb = _VERBS[request.method]
            self._accounts.allow(request, verb, resource, namespace, "")
            key = namespace or ""
            if verb == "get":
                return JSONResponse(self._store.get(resource, key, name))
            if verb == "delete":
                return JSONResponse(self._delete(resource, key, name, await _body(request, optional=True), request.query_params))
            change = await _body(request)
            if verb == "patch":
                kind = request.headers.get("content-type", "").partition(";")[0]
                if kind not in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
                    raise ApiFailure(415, "UnsupportedMediaType", f"the body of the request was in an unknown format - {kind}")
            return JSONResponse(self._change(resource, key, name, change, patch=verb == "patch"))

        return self._handle(item)

    def _change(self, resource: Resource, namespace: str, name: str, change: Object, *, patch: bool) -> Object:
        def apply(before: Object) -> Object:
            after: Object = (
                merge_patch(before, change) if patch else {**change, **({"status": before["status"]} if "status" in before else {})}
            )
            wanted = (change.get("metadata") or {}).get("resourceVersion")
            if wanted is None and not patch and resource is SPARK_APPLICATIONS:
                # The API server requires the version for custom resources, but not for core objects.
                cause = {"reason": "FieldValueInvalid", "field": "metadata.resourceVersion", "message": "must be specified for an update"}
                text = f'{resource.qualified} "{name}" is invalid: {cause["field"]}: Invalid value: 0x0: {cause["message"]}'
                raise ApiFailure(422, "Invalid", text, {"name": name, "kind": resource.kind, "causes": [cause]})
            if wanted is not None and wanted != before["metadata"]["resourceVersion"]:
                text = "the object has been modified; please apply your changes to the latest version and try again"
                raise conflict(resource, name, text)
            after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
            if patch and "status" in change:
                # Resources with a status subresource ignore the status in other writes.
                after = {**after, "status": before["status"]} if "status" in before else {k: v for k, v in after.items() if k != "status"}
            validate(resource, after, strict=False)
            if resource is SPARK_APPLICATIONS and _rerun(before["spec"], after["spec"]):
                status = after.setdefault("status", {})
                status["applicationState"] = {"state": "INVALIDATING"}
            return after

        return self._store.update(resource, namespace, name, apply)

    def _delete(self, resource: Resource, namespace: str, name: str, options: Object, query: Mapping[str, str]) -> Object:
        found = self._store.get(resource, namespace, name)
        uid = (options.get("preconditions") or {}).get("uid")
        if uid is not None and uid != found["metadata"]["uid"]:
            raise conflict(
                resource, name, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {found['metadata']['uid']}"
            )
        grace = options.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        foreground = (options.get("propagationPolicy") or query.get("propagationPolicy")) == "Foreground"
        if resource is PODS or (resource is SPARK_APPLICATIONS and foreground):
            # The kubelet removes the pod when its processes have ended; the operator removes the application when its pods are gone.
            finalizer = "localcloud/kubelet" if resource is PODS else "foregroundDeletion"

            def mark(item: Object) -> Object:
                metadata = item["metadata"]
                metadata.setdefault("deletionTimestamp", timestamp())
                if grace is not None:
                    metadata["deletionGracePeriodSeconds"] = int(grace)
                metadata["finalizers"] = sorted({*metadata.get("finalizers", ()), finalizer})
                return item

            return self._store.update(resource, namespace, name, mark)
        self._store.remove(resource, namespace, name)
        if resource in _ANSWER_WITH_OBJECT:
            return found
        details = {
            "name": name,
            **({"group": resource.group} if resource.group else {}),
            "kind": resource.plural,
            "uid": found["metadata"]["uid"],
        }
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    async def _evict(self, request: Request) -> Response:
        """Delete a pod as ``kubectl drain`` does: its condition says that it was evicted."""
        name, namespace = request.path_params["name"], request.path_params["namespace"]
        self._accounts.allow(request, "create", PODS, namespace, "eviction")
        options = (await _body(request)).get("deleteOptions") or {}
        reason = {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
        condition = {"type": "DisruptionTarget", "status": "True", **reason, "lastTransitionTime": timestamp()}

        def mark(item: Object) -> None:
            status = item.setdefault("status", {})
            status["conditions"] = [*status.get("conditions", ()), condition]

        self._store.update(PODS, namespace, name, mark)
        self._delete(PODS, namespace, name, options, request.query_params)
        return JSONResponse({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)

    # --- logs

    async def _log(self, request: Request) -> Response:
        name, namespace = request.path_params["name"], request.path_params["namespace"]
        self._accounts.allow(request, "get", PODS, namespace, "log")
        pod = self._store.get(PODS, namespace, name)
        query = request.query_params
        file = self._log_file(pod, query.get("container"))
        text = file.read_bytes()
        if "tailLines" in query:
            lines = text.splitlines(keepends=True)
            text = b"".join(lines[max(0, len(lines) - _number(query, "tailLines", 0)) :])
        if "limitBytes" in query:
            text = text[: _number(query, "limitBytes", 0)]
        if query.get("follow", "").lower() != "true":
            return PlainTextResponse(text)
        return StreamingResponse(self._follow(file, text, namespace, name, pod["metadata"]["uid"]), media_type="text/plain")

    async def _follow(self, file: Path, head: bytes, namespace: str, name: str, uid: str) -> AsyncIterator[bytes]:
        yield head
        with open(file, "rb") as handle, self._store.subscription() as changed:  # noqa: ASYNC230 - a local file
            handle.seek(0, os.SEEK_END)
            while True:
                pod = self._store.find(PODS, namespace, name)
                ended = pod is None or pod["metadata"]["uid"] != uid or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
                if more := handle.read():
                    yield more
                if ended:
                    return
                changed.clear()
                try:
                    # A store change wakes this task when the pod ends, but not when the log grows.
                    async with asyncio.timeout(0.25):
                        await changed.wait()
                except TimeoutError:
                    continue


_ANSWER_WITH_OBJECT = (SERVICES, VOLUME_CLAIMS, QUOTAS)
"""Kinds for which the API server answers a deletion with the deleted object, instead of a Status (``ReturnDeletedObject``)."""
_BUILD = {"gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": ""}


_RESOURCE_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?/?"
)
_VERBS = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_COLLECTION_VERBS = {"GET": "list", "DELETE": "deletecollection"}


async def _ok(request: Request) -> Response:
    return PlainTextResponse("ok")


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name) or str(default)
    if not text.isdecimal():
        raise ApiFailure(400, "BadRequest", f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


async def _body(request: Request, *, optional: bool = False) -> Object:
    raw = await request.body()
    if optional and not raw:
        return {}
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise ApiFailure(400, "BadRequest", f"couldn't get version/kind; json parse error: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("metadata", {}), dict):
        raise ApiFailure(400, "BadRequest", "the body must be a JSON object with a JSON object as metadata")
    return value


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _rerun(before: Object, after: Object) -> bool:
    """Whether the operator deletes the pods and runs the application again after this change of its spec."""
    harmless = "timeToLiveSeconds"
    return {k: v for k, v in before.items() if k != harmless} != {k: v for k, v in after.items() if k != harmless}


def _line(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}, separators=(",", ":")).encode() + b"\n"


def _warning_header(warnings: list[str]) -> dict[str, str]:
    return {"Warning": ", ".join(f"299 - {json.dumps(text)}" for text in warnings)} if warnings else {}


def _group(resource: Resource) -> Object:
    version = {"groupVersion": resource.api_version, "version": resource.version}
    return {"name": resource.group, "versions": [version], "preferredVersion": version}


def _resource_list(api_version: str) -> Object:
    resources = [
        {"name": item.plural, "singularName": "", "namespaced": item.namespaced, "kind": item.kind, "verbs": sorted(ALL_VERBS)}
        for item in RESOURCES
        if item.api_version == api_version
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources}
