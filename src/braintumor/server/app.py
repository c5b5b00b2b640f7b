"""Build the application: its paths, their parameters and what answers them."""

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
SLICES: Final = "numbers of the slices of volumes: all, 12, 10-20, or 1-5,9"
PLANE: Final = f"direction in which NIfTI volumes are cut: {', '.join(PLANES)}"
PROBLEMS: Final = {
    400: "not a form with files",
    401: "the service requires a token that was not sent",
    403: "requested under another host name, or by a page of another site",
    404: "no such model",
    408: "the request came too slowly",
    413: "too large, or too many slices",
    415: "no file of a supported type",
    422: "nothing in the request could be used",
    501: "a required library is not installed",
    503: "overloaded, or a decoder was killed; try again after Retry-After seconds",
    504: "the answer took too long",
}


def create_app(models: Sequence[Model], settings: Settings = Settings()) -> FastAPI:  # noqa: B008 (frozen)
    """Return the service for models that were loaded with one thread each; it stores nothing.

    Args:
        models: one or more, whose names differ.
        settings: limits, token and the host names under which it may be asked for.
    """
    metrics = ServiceMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with _keeping_failure(app):
            workers = InferenceWorkers(models, batch=settings.batch, slices=settings.slices)
        try:
            app.state.service = PredictionService(workers, settings, metrics)
            # before the first request: nobody waits for decoders that start, and a machine without them is noticed now
            with _keeping_failure(app):
                await app.state.service.warm_up()
            yield
        finally:
            await run_in_threadpool(workers.close)  # it joins threads, which would block the event loop

    app = FastAPI(
        title="braintumor",
        summary=DISCLAIMER,
        version=braintumor.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the redirect would go to an address made of the client's Host header
    )
    app.state.settings = settings
    app.add_middleware(RequestLimits, settings=settings, observe=metrics.answered)
    _add_answers(app, models, settings)
    _add_problems(app)
    _add_pages(app)
    _add_monitoring(app, metrics)
    return app


@contextmanager
def _keeping_failure(app: FastAPI) -> Iterator[None]:
    """Keep what is raised in the block as `app.state.failure`: uvicorn logs it, and does not hand it to `serve`."""
    try:
        yield
    except Exception as error:
        app.state.failure = error
        raise


def _add_answers(app: FastAPI, models: Sequence[Model], settings: Settings) -> None:
    """Add the paths for programs and the viewer: the models, and their predictions."""
    # the models do not change while the service runs, so their description is written once
    description = json.dumps(_models_answer(models, settings).model_dump()).encode()

    @app.get("/v1/models", response_model=ModelList, responses=_problems(401, 403))
    async def list_models() -> Response:
        """Return the models, how their class maps are displayed, and the limits of requests."""
        return Response(description, media_type="application/json")

    @app.post(
        "/v1/predictions",
        response_model=Predictions,
        responses=_problems(*(PROBLEMS.keys() - {501})),
        openapi_extra={"requestBody": BODY},
    )
    async def predict(
        request: Request,
        model: Annotated[list[str], Query(description="names of models; all by default")] = [],  # noqa: B006
        maps: Annotated[bool, Query(description="return class maps as well")] = False,
        pixels: Annotated[bool, Query(description="return the slices as they were decoded as well")] = False,
        slices: Annotated[str, Query(description=SLICES)] = "all",
        plane: Annotated[str, Query(description=PLANE)] = "acquired",
    ) -> Response:
        """Classify slices: PNG, JPEG, TIFF, BMP, DICOM or NIfTI files, or ZIP archives of these. Nothing is stored."""
        # parameters first: a request that will be refused need not send its body
        options = RequestOptions(_model_indices(models, model), _choice_of(slices, plane), maps=maps, pixels=pixels)
        files = await uploaded_contents(request, settings)
        memory = request.scope["memory"]
        return StreamedResponse(await app.state.service.answer(files, options, memory), memory)

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
        """Classify DICOM files and return DICOM objects in a ZIP archive: for all of the files or for none."""
        model_indices = _model_indices(models, model)
        if not can_write():
            raise ProblemError(501, "the libraries that write DICOM are not installed here")
        options = RequestOptions(model_indices, _choice_of(slices))
        files = await uploaded_contents(request, settings)
        memory = request.scope["memory"]
        return StreamedResponse(await app.state.service.results(files, options, memory), memory, "application/zip")


def _add_problems(app: FastAPI) -> None:

    @app.exception_handler(RequestValidationError)
    async def invalid_parameter(request: Request, error: RequestValidationError) -> Response:
        # FastAPI's own message would repeat what the client sent; only names that we know are repeated here
        names = ", ".join(sorted(QUERY & {str(detail["loc"][-1]) for detail in error.errors()}))
        return problem_answer(ProblemError(422, f"expected true or false for {names}"))

    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: ProblemError) -> Response:
        return problem_answer(error)


def _add_pages(app: FastAPI) -> None:
    """Add the pages for people: the viewer and the description of the interface."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))

    app.mount("/static", StaticFiles(directory=STATIC))


def _add_monitoring(app: FastAPI, metrics: ServiceMetrics) -> None:
    """Add the paths for whoever runs the service."""

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthy() -> str:
        """Tell whether the process answers."""
        return "ok"

    @app.get("/readyz", response_class=PlainTextResponse, responses=_problems(503))
    async def ready() -> str:
        """Tell whether requests are accepted; not while as many as are allowed wait for their answer."""
        if app.state.service.full:
            raise ProblemError(503, "too many requests at the moment", headers=RETRY)
        return "ready"

    @app.get("/metrics", response_class=PlainTextResponse, responses=_problems(401, 403))
    async def monitoring() -> Response:
        """Return metrics in the format of Prometheus; none is about a patient."""
        return Response(metrics.text(app.state.service.workers.waiting), media_type=metrics.media_type)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ProblemAnswer, "description": PROBLEMS[status]} for status in statuses}


def _models_answer(models: Sequence[Model], settings: Settings) -> ModelList:
    """Return the description of the models and of what is accepted."""
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
    """Return which slices of volumes are wanted.

    Raises:
        ProblemError: a parameter is not valid.
    """
    try:
        return SliceSelection.of(slices, plane)
    except BrainTumorError as error:
        raise ProblemError(422, str(error)) from error


def _finite(value: float) -> float | None:
    """Return the value, or None for infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def _model_indices(models: Sequence[Model], names: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the models with these names, ascending; of all models if there are no names.

    Raises:
        ProblemError: there is no such model.
    """
    available = [model.card.name for model in models]
    if not set(names) <= set(available):
        raise ProblemError(404, f"no such model here; there are {', '.join(available)}")
    return tuple(index for index, name in enumerate(available) if not names or name in names)
