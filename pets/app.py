"""`pets app`: on this machine alone, a page to drop photographs on, and masks over HTTP."""

import argparse
import base64
import io
import sys
import time
from collections.abc import Mapping
from importlib.resources import files

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pets.segmenter import Segmenter, network_files
from stages.records.classes import CLASS_COLORS
from stages.records.photograph import PhotographError, read_photograph
from stages.stage import StageError

HOST = "127.0.0.1"
# Nobody's photograph is larger.
MAX_BYTES = 200_000_000
# Pixels of the longer side, on the page; a mask on its own has the photograph's size.
SHOWN_SIDE = 1600
# The page needs nothing but itself.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def serve(options: argparse.Namespace) -> int:
    """Serves the networks that ship, and those of a workspace, at a port until it is stopped."""
    networks = {name: Segmenter(name) for name in sorted(network_files())}
    for name in sorted(network_files(options.models)) if options.models else ():
        try:
            shown = f"{options.models.name}/{name}"
            networks[shown] = Segmenter(name, models=options.models)
        except StageError as error:
            print(f"pets: {shown} is left out: {error}", file=sys.stderr)
    uvicorn.run(application(networks), host=HOST, port=options.port, access_log=False)
    return 0


def application(networks: Mapping[str, Segmenter]) -> Starlette:
    """The page and the HTTP interface, which takes the bytes of a photograph.

    `POST /mask?network=NAME` answers with a palette PNG of the photograph's size (0 pet,
    1 background, 2 border); `POST /predict` with JSON for the page, images as data URIs; both with
    {"error": ...} and status 422 if it is not a photograph.
    """
    page = files("pets").joinpath("app.html").read_text(encoding="utf-8")
    for name, color in CLASS_COLORS.items():
        page = page.replace(f"{{{name}}}", color)

    def index(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    async def predict(request: Request) -> Response:
        return await run_in_threadpool(_answer, networks, await _content(request))

    async def mask(request: Request) -> Response:
        name = request.query_params.get("network", "unet")
        if name in networks:
            return await run_in_threadpool(_mask, networks[name], await _content(request))
        error = f"there is no network {name!r}; there is {', '.join(networks)}"
        return JSONResponse({"error": error}, 404)

    return Starlette(
        routes=[Route("/", index)]
        + [Route(f"/{work.__name__}", work, methods=["POST"]) for work in (predict, mask)],
        # A page of the internet whose name leads here gets no answer.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
        exception_handlers={
            PhotographError: lambda _, error: JSONResponse({"error": str(error)}, 422)
        },
    )


async def _content(request: Request) -> bytes:
    if int(request.headers.get("content-length", MAX_BYTES + 1)) > MAX_BYTES:
        raise PhotographError(f"has more than {MAX_BYTES:,} bytes, or does not say how many")
    return await request.body()


def _mask(network: Segmenter, content: bytes) -> Response:
    mask = network.segment(content).colors()
    return Response(_encoded(mask, "PNG"), media_type="image/png")


def _answer(networks: Mapping[str, Segmenter], content: bytes) -> Response:
    image = read_photograph(content)
    shown = image.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    found = {}
    for name, network in networks.items():
        start = time.perf_counter()
        result = network.segment(image, shown.size)
        found[name] = {
            "milliseconds": 1000 * (time.perf_counter() - start),
            "mask": _data_uri(result.colors(), "PNG"),
            "overlay": _data_uri(result.overlay(), "JPEG"),
            "cutout": _data_uri(result.cutout(), "PNG"),
            "shares": result.shares(),
            "confidence": result.confidence,
        }
    return JSONResponse({"photograph": _data_uri(shown, "JPEG"), "networks": found})


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=90, compress_level=1)
    return file.getvalue()


def _data_uri(image: Image.Image, kind: str) -> str:
    content = base64.b64encode(_encoded(image, kind)).decode()
    return f"data:image/{kind.lower()};base64,{content}"
