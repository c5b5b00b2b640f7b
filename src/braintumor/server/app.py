"""The service: which address answers what."""

import dataclasses
import json
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles

import braintumor
from braintumor.classes import CLASSES, DISCLAIMER, TITLES
from braintumor.errors import BrainTumorError, ProblemError
from braintumor.io.scan import PLANES, SliceSelection
from braintumor.io.worker import LARGEST
from braintumor.models.policy import COVERAGE
from braintumor.models.referral import REASON_TITLES
from braintumor.models.session import Model
from braintumor.overlay import COLOURS, EVIDENCE, OPACITY
from braintumor.server.dicom_results import MOST, can_write
from braintumor.server.metrics import ServiceMetrics
from braintumor.server.middleware import RequestLimits, problem_answer
from braintumor.server.multipart import FILES_FIELD, uploaded_contents
from braintumor.server.reference import reference_page
from braintumor.server.schemas import (
    ClassName,
    Limits,
    ModelAnswer,
    ModelList,
    Predictions,
    ProblemAnswer,
    ReasonTitle,
    Scale,
)
from braintumor.server.service import RETRY, PredictionService, RequestOptions
from braintumor.server.settings import Settings
from braintumor.server.streaming import StreamedResponse
from braintumor.server.workers import InferenceWorkers

STATIC: Final = Path(__file__).parent / "static"
BODY: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FILES_FIELD],
                "properties": {
                    FILES_FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
                },
            }
        }
    },
}
QUERY: Final = {"maps", "pixels"}
SLICES: Final = "of volumes, the numbers of the slices: all, 12, 10-20, or 1-5,9"
PLANE: Final = f"of NIfTI volumes, the direction in which they are cut: {', '.join(PLANES)}"
PROBLEMS: Final = {
    400: "no form with files",
    401: "the service has a token, and it was not sent",
    403: "asked under another name, or by a page of another site",
    404: "no such model",
    408: "the request came too slowly",
    413: "too large, or too many slices",
    415: "no file of a known type",
    422: "nothing in the request could be used",
    501: "a library that this needs is not installed",
    503: "too much to do, or a decoder was killed; come back after Retry-After seconds",
    504: "the answer took too long",
}


def create_app(models: Sequence[Model], settings: Settings = Settings()) -> FastAPI:  # noqa: B008 (frozen)
    """Return the service for models that were loaded with one thread each; it stores nothing.

    Args:
        models: one or more, whose names differ.
        settings: limits, token and the names under which it may be asked for.
    """
    numbers = ServiceMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with _keeping_failure(app):
            desk = InferenceWorkers(models, batch=settings.batch, slices=settings.slices)
        try:
            app.state.counter = PredictionService(desk, settings, numbers)
            with _keeping_failure(app):
                await app.state.counter.warm_up()
            yield
        finally:
            await run_in_threadpool(desk.close)

    app = FastAPI(
        title="braintumor",
        summary=DISCLAIMER,
        version=braintumor.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # to an address made of the client's Host header
    )
    app.state.settings = settings
    app.add_middleware(RequestLimits, settings=settings, observe=numbers.answered)
    _add_answers(app, models, settings)
    _add_problems(app)
    _add_pages(app)
    _add_monitoring(app, numbers)
    return app


@contextmanager
def _keeping_failure(app: FastAPI) -> Iterator[None]:
    """Keep what is raised in the block as `app.state.failure`: uvicorn prints it, and tells nobody."""
    try:
        yield
    except Exception as error:
        app.state.failure = error
        raise


def _add_answers(app: FastAPI, models: Sequence[Model], settings: Settings) -> None:
    """Add what programs and the viewer ask: the models, and what they say about slices."""
    about = json.dumps(_models_answer(models, settings).model_dump()).encode()

    @app.get("/v1/models", response_model=ModelList, responses=_problems(401, 403))
    async def list_models() -> Response:
        """The models, what their maps are shown with, and what is accepted."""
        return Response(about, media_type="application/json")

    @app.post(
        "/v1/predictions",
        response_model=Predictions,
        responses=_problems(*(PROBLEMS.keys() - {501})),
        openapi_extra={"requestBody": BODY},
    )
    async def predict(
        request: Request,
        model: Annotated[list[str], Query(description="names of models; all by default")] = [],  # noqa: B006
        maps: Annotated[bool, Query(description="send class maps, too")] = False,
        pixels: Annotated[bool, Query(description="send the slices as they were understood, too")] = False,
        slices: Annotated[str, Query(description=SLICES)] = "all",
        plane: Annotated[str, Query(description=PLANE)] = "acquired",
    ) -> Response:
        """Classify slices: PNG, JPEG, TIFF, BMP, DICOM or NIfTI files, or ZIP archives of these. Nothing is stored."""
        wanted = _chosen(models, model)
        choice = _choice_of(slices, plane)
        files = await uploaded_contents(request, settings)
        share = request.scope["share"]
        return StreamedResponse(
            await app.state.counter.answer(files, RequestOptions(wanted, choice, maps, pixels), share), share
        )

    @app.post(
        "/v1/dicom-results",
        response_class=Response,
        responses=_problems(*PROBLEMS) | {200: {"content": {"application/zip": {}}, "description": "ZIP archive"}},
        openapi_extra={"requestBody": BODY},
    )
    async def dicom_results(
        request: Request,
        model: Annotated[list[str], Query(description="names of models; all by default")] = [],  # noqa: B006
        slices: Annotated[str, Query(description=SLICES)] = "all",
    ) -> Response:
        """Classify DICOM files and answer with DICOM objects, in a ZIP archive: all of the files or none."""
        wanted = _chosen(models, model)
        if not can_write():
            raise ProblemError(501, "the libraries that write DICOM are not installed here")
        wishes = RequestOptions(wanted, _choice_of(slices))
        files = await uploaded_contents(request, settings)
        share = request.scope["share"]
        return StreamedResponse(await app.state.counter.results(files, wishes, share), share, "application/zip")


def _add_problems(app: FastAPI) -> None:

    @app.exception_handler(RequestValidationError)
    async def misunderstood(request: Request, error: RequestValidationError) -> Response:
        wrong = ", ".join(sorted(QUERY & {str(each["loc"][-1]) for each in error.errors()}))
        return problem_answer(ProblemError(422, f"expected true or false for {wrong}"))

    @app.exception_handler(ProblemError)
    async def refused(request: Request, error: ProblemError) -> Response:
        return problem_answer(error)


def _add_pages(app: FastAPI) -> None:
    """Add what people look at: the viewer and the description of the interface."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))

    app.mount("/static", StaticFiles(directory=STATIC))


def _add_monitoring(app: FastAPI, numbers: ServiceMetrics) -> None:
    """Add what whoever runs the service asks."""

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthy() -> str:
        """Whether the process answers."""
        return "ok"

    @app.get("/readyz", response_class=PlainTextResponse, responses=_problems(503))
    async def ready() -> str:
        """Whether slices are answered; not while all places are taken."""
        if app.state.counter.full:
            raise ProblemError(503, "all places are taken", headers=RETRY)
        return "ready"

    @app.get("/metrics", response_class=PlainTextResponse, responses=_problems(401, 403))
    async def metrics() -> Response:
        """Numbers for monitoring, in the format of Prometheus; none is about a patient."""
        return Response(numbers.text(app.state.counter.desk.waiting), media_type=numbers.media_type)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ProblemAnswer, "description": PROBLEMS[status]} for status in statuses}


def _models_answer(models: Sequence[Model], settings: Settings) -> ModelList:
    """Return what is to be known about the models before asking them."""
    return ModelList(
        version=braintumor.__version__,
        classes=[ClassName(name=name, title=TITLES[name]) for name in CLASSES],
        reasons=[ReasonTitle(code=code, title=title) for code, title in REASON_TITLES.items()],
        scale=Scale(evidence=EVIDENCE, opacity=OPACITY, colours=list(COLOURS)),
        limits=Limits(
            file_bytes=settings.file_bytes,
            request_bytes=settings.request_bytes,
            pixels=LARGEST,
            slices=settings.slices,
            results=MOST,
        ),
        dicom=can_write(),
        models=[_model_answer(model) for model in models],
    )


def _model_answer(model: Model) -> ModelAnswer:
    return ModelAnswer(
        name=model.card.name,
        identity=model.identity,
        architecture=model.card.architecture,
        input_pixels=model.card.preprocess.size,
        class_map_scale=model.card.class_map_scale,
        coverage=COVERAGE if model.card.rejection else None,
        confidence=model.policy.confidence,
        ood_threshold=_finite(model.policy.ood_threshold),
        far_ood_threshold=_finite(model.policy.far_ood_threshold),
        card=dataclasses.asdict(model.card),
    )


def _choice_of(slices: str, plane: str = "acquired") -> SliceSelection:
    """Return which slices of volumes are asked for.

    Raises:
        ProblemError: it cannot be understood.
    """
    try:
        return SliceSelection.of(slices, plane)
    except BrainTumorError as error:
        raise ProblemError(422, str(error)) from error


def _finite(value: float) -> float | None:
    """Return a number that JSON knows, or None."""
    return value if math.isfinite(value) else None


def _chosen(models: Sequence[Model], names: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the models of these names, of all without names.

    Raises:
        ProblemError: there is no such model.
    """
    known = [model.card.name for model in models]
    if not set(names) <= set(known):
        raise ProblemError(404, f"no such model here; there are {', '.join(known)}")
    return tuple(number for number, name in enumerate(known) if not names or name in names)
