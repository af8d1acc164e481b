"""Answers over HTTP, as JSON. The only module that imports FastAPI.

Endpoints are plain functions, which FastAPI runs on threads: an Answer reads disk and may ask the broker.
"""

from __future__ import annotations

import base64
import itertools
import struct
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import polars as pl
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from streamkit.checkpoint import Slot, slot_key, slot_of
from streamkit.control import BatchView
from streamkit.errors import (
    BrokerUnreachable,
    CutMismatch,
    DefinitionChanged,
    DefinitionError,
    LogError,
    StateError,
    StreamkitError,
    TopicChanged,
)
from streamkit.serving import http_models as models
from streamkit.serving.answer_json import answer_json, cut_json, iso_time, parse_span, parse_time, result_json
from streamkit.serving.http_metrics import Measured, Metrics
from streamkit.serving.merge import Serving
from streamkit.serving.seam import Seam
from streamkit.topology import Topology
from streamkit.view import View

PREFIX = "urn:streamkit:error:"
VIEW = Annotated[
    str,
    Path(
        description="A View's name: see `/views`. NAME@VERSION is one version, in force or not.", examples=["campaign"]
    ),
]

JOB = Annotated[str, Path(description="The name of a MapReduce job that is `served`.", examples=["words"])]

_STATUS: tuple[tuple[type[StreamkitError], int], ...] = (
    (CutMismatch, 409),
    (DefinitionChanged, 409),
    (TopicChanged, 409),
    (DefinitionError, 400),
    (LogError, 503),
    (StateError, 503),
)
"""The first that fits. 409: refused, as the answer would be wrong. 503: try again, something is not there."""

_UNFIT = "The request does not fit the View or the API."
_TYPES = {pl.String(): "text", pl.Boolean(): "boolean", pl.Binary(): "bytes"}
_TAG = 8
"""Bytes of a cursor that say which definition of which View it is of."""

_DESCRIPTION = """Answers of the topology's Views: batch and speed layer, merged exactly.

Every Answer says at which Cut it is exact: it is the sum of all records before it, and of none other. What cannot be
answered exactly is refused (409). Errors are problems as of RFC 9457, with the way out in `detail`.
"""


class UnknownView(DefinitionError):
    """There is no View of this name."""


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The document, with the errors' schema: FastAPI knows no way to declare another media type's."""
        document = super().openapi()
        document["components"]["schemas"]["Problem"] = models.Problem.model_json_schema()
        return document


def make_app(topology: Topology, serving: Serving) -> FastAPI:
    """The HTTP API of a topology's Views. `serving` stays the caller's to close."""
    # No page of documentation: those that FastAPI makes load their scripts from another host.
    app = _App(title=f"StreamKit: {topology.name}", description=_DESCRIPTION, docs_url=None, redoc_url=None)
    metrics = Metrics(topology, serving)
    api = _Api(topology, serving, metrics)
    app.add_middleware(Measured, metrics=metrics)
    for error in (StreamkitError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(error, _problem)
    get = app.get
    get("/views", summary="All Views", response_model=models.ViewsBody, responses=_problems(503))(api.views)
    get("/views/{view}/answer", summary="One Answer", response_model=models.AnswerBody, responses=_problems())(
        api.answer
    )
    get("/views/{view}/answers", summary="A page of Answers", response_model=models.PageBody, responses=_problems())(
        api.answers
    )
    get(
        "/mapreduce/{job}/answer", summary="One Answer of a MapReduce result", response_model=models.ResultBody,
        responses=_problems(),
    )(api.result)  # fmt: skip
    get("/health", summary="Health", response_model=models.HealthBody, responses=_problems(503))(api.health)
    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    get("/metrics", summary="Metrics", response_class=Response, responses=text)(api.metrics)
    return app


class _Api:
    """The endpoints; their docstrings are the OpenAPI document's."""

    def __init__(self, topology: Topology, serving: Serving, metrics: Metrics) -> None:
        self._topology, self._serving, self._metrics = topology, serving, metrics

    def views(self) -> Response:
        """What can be asked for: the Views' keys, windows and Aggregates, and the BatchViews in force.

        Each View once, as the version that is in force defines it; `versions` are those that are kept up to date.
        """
        names = dict.fromkeys(view.base for view in self._topology.views.values())
        return _json({"topology": self._topology.name, "views": [self._describe(name) for name in names]})

    def answer(self, view: VIEW, query: Annotated[models.AnswerQuery, Query()]) -> Response:
        """The Answer for one key and, where the View has windows, for one window: `at`, or `start` and `end`.

        A key without records has an Answer too, of the empty sum: `found` is false.
        """
        found = self._find(view)
        window = _window(found, query)
        return _json(answer_json(found, self._serving.get(found, found.parse_key(query.key), window)))

    def answers(self, view: VIEW, query: Annotated[models.AnswersQuery, Query()]) -> Response:
        """All windows that overlap `[start, end)`, of one key or of all, a page at a time."""
        found = self._find(view)
        span = parse_span(found, query.start, query.end)
        key = found.parse_key(query.key) if query.key else None
        page = self._serving.page(found, key, *span, after=_after(found, query.after))
        answers = list(itertools.islice(page.answers, query.limit))
        more = next(page.answers, None) is not None
        last = answers[-1] if more else None
        body = {
            "view": found.name,
            "cut": cut_json(page.seam.cut),
            "lag": page.lag,
            "answers": [answer_json(found, answer) for answer in answers],
            "next": None if last is None else _cursor(found, Slot(last.key, *(last.window or (0, 0)))),
        }
        return _json(body)

    def result(self, job: JOB, query: Annotated[models.ResultQuery, Query()]) -> Response:
        """What the newest result of a served MapReduce job has for one key; `found` is false where it has nothing."""
        if job not in self._topology.jobs:
            raise UnknownView(f"topology {self._topology.name!r} has no mapreduce {job!r}; {_named(self._topology)}")
        found = self._topology.find_job(job)
        key = found.parse_key(query.key)
        return _json(result_json(found.get(*(key if isinstance(key, tuple) else (key,)))))

    def health(self) -> Response:
        """200 while the broker answers and the state can be read, else 503 with the reason.

        A View that is refused is named, and no reason for 503: the others are served.
        """
        views: dict[str, Any] = {}
        for name in self._topology.views:
            try:
                views[name] = {"lag": self._serving.lag(self._serving.find(name)), "refused": None}
            except StreamkitError as error:
                if _status(error) == HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                views[name] = {"lag": None, "refused": str(error)}
        return _json({"status": "ok", "views": views})

    def metrics(self) -> Response:
        """Requests and latency by route, lag by View, in Prometheus' text format."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _find(self, name: str) -> View:
        try:
            return self._serving.find(name)
        except DefinitionError as error:
            raise UnknownView(str(error)) from None

    def _describe(self, name: str) -> dict[str, Any]:
        """One View, as the version in force has it; where that is declared no more, as the newest one would."""
        versions = self._topology.versions(name)
        try:
            view, gone = self._serving.in_force(name), None
        except DefinitionChanged as error:
            view, gone = versions[-1], str(error)
        seams = {version: self._seam(version) for version in versions}
        seam, refused = (None, gone) if gone else seams[view]
        return {
            "name": name,
            "version": None if gone else view.version,
            "topic": view.topic.name,
            "key": [{"name": n, "type": _TYPES.get(kind, "integer")} for n, kind in view.key_types.items()],
            "window": view.window.describe() if view.windowed else None,
            "aggregates": {
                name: {"aggregate": type(a).__name__, "fields": list(a.fields), "approximate": a.approximate}
                for name, a in view.aggregates.items()
            },
            "fingerprint": view.fingerprint,
            "cut": None if seam is None else cut_json(seam.cut),
            "batch": None if seam is None or seam.batch is None else _batch(seam.batch),
            "segments": {} if seam is None else {str(p): spans for p, spans in seam.segments.items()},
            "refused": refused,
            "versions": [
                {
                    "name": f"{name}@{version.version}",
                    "version": version.version,
                    "in_force": version is view and not gone,
                    "fingerprint": version.fingerprint,
                    "cut": None if at is None else cut_json(at.cut),
                    "refused": why,
                }
                for version, (at, why) in seams.items()
            ],
        }

    def _seam(self, view: View) -> tuple[Seam | None, str | None]:
        """Where it is exact now, or why there is no such place."""
        try:
            return self._serving.seam(view), None
        except BrokerUnreachable:  # for all Views alike, and each would wait for it
            raise
        except StreamkitError as error:
            return None, str(error)


# -- what is asked ----------------------------------------------------------------------------------------------------


def _window(view: View, query: models.AnswerQuery) -> int | tuple[int, int] | None:
    at = None if query.at is None else parse_time(query.at, "at")
    start, end = parse_span(view, query.start, query.end)
    if at is not None and (start, end) == (None, None):
        return at
    if at is None and start is not None and end is not None:
        return start, end
    if (at, start, end) != (None, None, None):
        raise DefinitionError("give at= for the window that holds a moment, or start= and end= for one window")
    if view.windowed:
        raise DefinitionError(
            f"view {view.name!r} has windows ({view.window.describe()}): give at= for the one that holds a moment, "
            f"start= and end= for one, or ask /views/{view.name}/answers for several"
        )
    return None


def _tag(view: View) -> bytes:
    return bytes.fromhex(view.fingerprint)


def _cursor(view: View, slot: Slot) -> str:
    return base64.urlsafe_b64encode(_tag(view) + slot_key(slot)).decode()


def _after(view: View, cursor: str | None) -> Slot | None:
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        # Without the tag it would be read as a place among another View's keys, and pages skip what is before it.
        if raw[:_TAG] == _tag(view):
            slot = slot_of(raw[_TAG:])
            return Slot(view.key(*slot.key), slot.start, slot.end)
    except (ValueError, TypeError, DefinitionError, struct.error):
        pass
    raise DefinitionError(
        f"after={cursor!r} is no cursor of view {view.name!r} as it is defined now; give `next` of a page before, or "
        f"begin anew without after="
    )


# -- what is answered -------------------------------------------------------------------------------------------------


def _json(body: Any, status: int = 200, media_type: str = "application/json", **headers: str) -> Response:
    # An Answer is true for a moment: no cache may hold it.
    return Response(msgspec.json.encode(body), status, {"Cache-Control": "no-store", **headers}, media_type)


def _batch(batch: BatchView) -> dict[str, Any]:
    return {
        "id": batch.id,
        "cut": cut_json(batch.cut),
        "created": batch.created,
        "created_time": iso_time(batch.created),
        "slots": batch.slots,
        "events": batch.events,
        "rejected": batch.rejected,
        "proof": None if batch.proof is None else msgspec.to_builtins(batch.proof),
    }


def _named(topology: Topology) -> str:
    served = [name for name, job in topology.jobs.items() if job.served]
    return f"it serves {', '.join(served) or 'none'}"


def _status(error: StreamkitError) -> int:
    if isinstance(error, UnknownView):
        return 404
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def _problem(request: Request, error: Exception) -> Response:
    """RFC 9457, for errors raised on purpose, by FastAPI, and by mistake."""
    headers = {}
    if isinstance(error, DefinitionError) and not isinstance(error, UnknownView):
        status, kind, title, detail = 400, f"{PREFIX}BadRequest", _UNFIT, str(error)
    elif isinstance(error, StreamkitError):
        status, kind, title, detail = (
            _status(error),
            PREFIX + type(error).__name__,
            type(error).__doc__ or "",
            str(error),
        )
    elif isinstance(error, RequestValidationError):
        status, kind, title = 400, f"{PREFIX}BadRequest", _UNFIT
        detail = f"{'; '.join(map(_invalid, error.errors()))}. /openapi.json names the parameters"
    elif isinstance(error, HTTPException):
        status, kind, title = error.status_code, "about:blank", HTTPStatus(error.status_code).phrase
        detail = f"{request.method} {request.url.path}: {error.detail}; /openapi.json tells what there is"
        headers = dict(error.headers or {})
    else:
        status, kind, title = 500, f"{PREFIX}Internal", "StreamKit is wrong."
        detail = f"{type(error).__name__}; the server's log has the rest"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    body = {"type": kind, "title": title, "status": status, "detail": detail, "instance": request.url.path}
    return _json(body, status, "application/problem+json", **headers)


def _invalid(error: Any) -> str:
    name = ".".join(map(str, error["loc"][1:]))
    return f"{name or 'query'}: {error['msg']}" + (f", got {error['input']!r}" if "input" in error and name else "")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    meaning = {
        400: "A key, window, time or parameter that does not fit the View.",
        404: "There is no such View; `detail` names those there are.",
        409: "Refused, as no exact answer exists (CutMismatch, DefinitionChanged, TopicChanged).",
        503: "The broker does not answer, or there is no state yet.",
    }
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    found: dict[int | str, dict[str, Any]] = {s: {"description": meaning[s]} for s in statuses or meaning}
    found["default"] = {"description": "Any other error."}
    return {status: {**response, "content": content} for status, response in found.items()}
