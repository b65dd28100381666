"""`pets app`: a page on this machine alone, where photographs are dropped on all networks."""

import base64
import io
import os
import sys
import time
import webbrowser
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pets.network import Network
from pets.photograph import PhotographError, read_photograph
from pets.prediction import at_own_size, cutout, mask_picture, overlay, shares
from stages.networks.trained import ADVICE, network_names
from stages.records.classes import CLASS_COLORS, CLASS_NAMES
from stages.records.resizing import network_input
from stages.stage import StageError

HOST = "127.0.0.1"
# Nobody's photograph is larger.
MAX_BYTES = 200_000_000
# Pixels of the longer side, on the page; `pets predict` keeps the photograph's size.
SHOWN_SIDE = 1600
# The page needs nothing but itself.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def serve(models: Path, port: int, *, browser: bool = True) -> int:
    """Serves the page until it is stopped.

    Args:
        models: The folder of the networks' files.
        port: The port on 127.0.0.1.
        browser: Whether to open the page, where there is a desktop.

    Returns:
        0, or 1 if there is no network.
    """
    try:
        networks = load_networks(models)
    except StageError as error:
        print(f"pets: {error}", file=sys.stderr)
        return 1
    config = uvicorn.Config(application(networks), host=HOST, port=port, log_level="warning")
    socket = config.bind_socket()
    address = f"http://{HOST}:{port}"
    print(f"pets: {', '.join(networks)} at {address}; Ctrl-C stops", file=sys.stderr, flush=True)
    # Without a desktop a browser in the terminal would be opened.
    desktop = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
    if browser and desktop:
        webbrowser.open(address)
    uvicorn.Server(config).run(sockets=[socket])
    return 0


def load_networks(models: Path) -> dict[str, Network]:
    """All networks of a folder, by name.

    Raises:
        StageError: There is none, or one cannot be loaded.
    """
    names = network_names(models)
    if not names:
        raise StageError(f"there is no network in {models}: {ADVICE}")
    networks = {name: Network(models / f"{name}.keras") for name in names}
    for network in networks.values():
        # Compiled now, so that the first photograph need not wait for it.
        network.probabilities(np.zeros((1, network.image_size, network.image_size, 3), np.uint8))
    return networks


def application(networks: Mapping[str, Network]) -> Starlette:
    """The page and what it asks for.

    `POST /predict` takes the bytes of a photograph and gives `photograph` and, in `networks`, for
    each network `mask`, `overlay` and `cutout` as addresses of data, `shares`, `confidence` and
    `milliseconds`; or `error` with status 422.
    """
    page = files("pets").joinpath("app.html").read_text(encoding="utf-8")
    for name, color in CLASS_COLORS.items():
        page = page.replace(f"{{{name}}}", color)

    async def index(request: Request) -> Response:
        del request
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    async def predict(request: Request) -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > MAX_BYTES:
                return JSONResponse({"error": f"has more than {MAX_BYTES:,} bytes"}, 413)
        try:
            return JSONResponse(await run_in_threadpool(answer, networks, bytes(content)))
        except PhotographError as error:
            return JSONResponse({"error": str(error)}, 422)

    return Starlette(
        routes=[Route("/", index), Route("/predict", predict, methods=["POST"])],
        # A page of the internet whose name leads here gets no answer.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def answer(networks: Mapping[str, Network], content: bytes) -> dict[str, Any]:
    """What the networks make of a photograph; as of `application`.

    Raises:
        PhotographError: It is no photograph.
    """
    image = read_photograph(content).image
    shown = image.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    found = {}
    for name, network in networks.items():
        start = time.perf_counter()
        picture = network_input(image, network.image_size)
        (probabilities,) = network.probabilities(picture[None])
        prediction = at_own_size(probabilities, shown.size)
        seconds = time.perf_counter() - start
        of_class = shares(prediction.mask, len(CLASS_NAMES))
        found[name] = {
            "mask": _address(mask_picture(prediction), "PNG"),
            "overlay": _address(overlay(shown, prediction), "JPEG", quality=90),
            "cutout": _address(cutout(shown, prediction), "PNG", compress_level=1),
            "shares": dict(zip(CLASS_NAMES, of_class, strict=True)),
            "confidence": prediction.confidence,
            "milliseconds": 1000 * seconds,
        }
    return {"photograph": _address(shown, "JPEG", quality=90), "networks": found}


def _address(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
