"""Routes of the server: the page, its files, the JSON endpoint with its description, and a health check."""

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Header, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel
from starlette.exceptions import HTTPException as HttpError

from mvsent import __version__
from mvsent.errors import InputError
from mvsent.inference.model import Model
from mvsent.serve.answer import PairAnswer, answer
from mvsent.serve.gate import FAILED, Limits

_STATIC = {
    "report.css": ("mvsent.report", "templates", "text/css"),
    "serve.css": ("mvsent.serve", "static", "text/css"),
    "serve.js": ("mvsent.serve", "static", "text/javascript"),
}
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class Problem(BaseModel):
    """The body of every error."""

    error: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": why}
    for status, why in {
        400: "the request is broken, or its Host header names another server",
        408: "the request did not arrive in time",
        413: "the request is too large",
        415: "the request is not a form",
        422: "the picture or the text cannot be used, or both are missing",
        503: "too many requests at once; Retry-After says when to try again",
        504: "no answer in time",
    }.items()
}


def application(model: Model, limits: Limits, worker: ThreadPoolExecutor) -> FastAPI:
    """The application. `worker` has one thread and runs every computation, as networks are not thread-safe.

    It reads bodies of any length and has no time limit: put it behind a `Gate`.
    """
    name = model.run.path.resolve().name
    # No docs_url: FastAPI's page of documentation loads its script from another host.
    app = FastAPI(
        title=f"mvsent: {name}", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False,
        description="The sentiment of a pair of picture and text.",
    )  # fmt: skip
    shown = page(model, name, limits)

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(shown)

    @app.get("/static/{file}", include_in_schema=False)
    async def static(file: str) -> Response:
        if file not in _STATIC:
            raise HTTPException(404, "no such page")
        return own_file(file)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok"}

    @app.post("/api/predict", responses=_PROBLEMS)
    async def predict(
        image: Annotated[UploadFile | None, File(description="a JPEG, PNG, GIF, WebP, BMP or TIFF")] = None,
        text: Annotated[str, Form(description=f"at most {limits.text:,} characters")] = "",
        explain: Annotated[bool, Form(description="add the network's attention")] = False,
        content_type: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> PairAnswer:
        """The sentiment of a picture, a text, or both."""
        if content_type.partition(";")[0].strip().lower() not in _FORMS:
            raise HTTPException(415, f"the request is not a form: send {' or '.join(_FORMS)}")
        if len(text) > limits.text:
            raise HTTPException(422, f"the text is longer than {limits.text:,} characters")
        # A browser sends an empty file if none was chosen.
        picture = None if image is None or not (image.filename or image.size) else await image.read()
        ask = functools.partial(answer, model, picture, text, explain=explain)
        return await asyncio.get_running_loop().run_in_executor(worker, ask)

    app.add_exception_handler(Exception, _failed)
    app.add_exception_handler(InputError, _unusable)
    app.add_exception_handler(HttpError, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


def page(model: Model, name: str, limits: Limits) -> str:
    """The HTML of the page; style and script are separate files, as the content security policy requires."""
    environment = Environment(
        loader=PackageLoader("mvsent.serve"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("serve.html").render(
        title=name,
        lead=f"{model.run.settings.model} of {model.run.resolved.dataset_name}, "
        + (f"fold {model.folds[0]}" if len(model.folds) == 1 else f"mean of {len(model.folds)} folds"),
        megabytes=limits.body // 2**20,
        text=limits.text,
        version=__version__,
    )


@functools.cache
def own_file(file: str) -> Response:
    """One of the page's own files."""
    package, folder, media_type = _STATIC[file]
    return Response((files(package) / folder / file).read_bytes(), media_type=media_type)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": FAILED}, 500)  # the gate logs the error, which is raised again


async def _unusable(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InputError)
    return JSONResponse({"error": error.what}, 422)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HttpError)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
    return JSONResponse({"error": problems}, 422)
