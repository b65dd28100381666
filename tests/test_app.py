"""`pets app`: its server on loopback, and a real upload in Chromium."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import uvicorn
from PIL import Image

from pets import app
from pets.__main__ import main
from pets.app import application, load_networks
from pets.networks import KerasNetwork
from pets.prediction import Prediction, segment
from stages.records.classes import class_rgb
from stages.stage import StageError
from tests.chromium import Tab, find_chromium
from tests.color_networks import photograph


@pytest.fixture(scope="module")
def networks(color_networks: Path) -> dict[str, KerasNetwork]:
    return {name: KerasNetwork(color_networks / f"{name}.keras") for name in ("colors", "seen")}


@pytest.fixture(scope="module")
def address(networks: dict[str, KerasNetwork]) -> Iterator[str]:
    """Where the page is served, by uvicorn in a thread."""
    config = uvicorn.Config(application(networks), host=app.HOST, port=0, log_level="warning")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://{app.HOST}:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def _decoded(data_uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2])))


def _expected(network: KerasNetwork) -> Prediction:
    return segment(network, photograph(), (90, 60))


def test_each_network_answers_with_mask_overlay_and_cutout(
    address: str, networks: dict[str, KerasNetwork]
) -> None:
    answer = requests.post(f"{address}/predict", _encoded(photograph(), "PNG"), timeout=60).json()
    assert _decoded(answer["photograph"]).size == (90, 60)
    assert list(answer["networks"]) == list(networks)
    for name, found in answer["networks"].items():
        expected = _expected(networks[name])
        np.testing.assert_array_equal(np.asarray(_decoded(found["mask"])), expected.mask)
        opacity = np.asarray(_decoded(found["cutout"]))[..., 3]
        np.testing.assert_array_equal(opacity, expected.opacity)
        assert _decoded(found["overlay"]).size == (90, 60)
        assert sum(found["shares"].values()) == pytest.approx(1)
        assert found["confidence"] == pytest.approx(expected.confidence)


def test_a_mask_is_answered_as_a_png_of_the_photographs_size(
    address: str, networks: dict[str, KerasNetwork]
) -> None:
    content = _encoded(photograph(), "PNG")
    for name, network in networks.items():
        answer = requests.post(f"{address}/mask?network={name}", content, timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        mask = Image.open(io.BytesIO(answer.content))
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), _expected(network).mask)
    answer = requests.post(f"{address}/mask", content, timeout=60)
    assert answer.status_code == 404
    assert answer.json() == {"error": "there is no network 'unet'; there is colors, seen"}


def test_a_large_photograph_is_shown_smaller(address: str) -> None:
    content = _encoded(photograph(2000, 4000), "JPEG")
    answer = requests.post(f"{address}/predict", content, timeout=60).json()
    assert _decoded(answer["networks"]["colors"]["mask"]).size == (800, 1600)


@pytest.mark.parametrize("path", ["predict", "mask?network=seen"])
def test_what_is_not_a_photograph_is_refused_with_the_reason(
    address: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = requests.post(f"{address}/{path}", b"not an image", timeout=60)
    assert answer.status_code == 422
    assert "is not an image of a known format" in answer.json()["error"]
    monkeypatch.setattr(app, "MAX_BYTES", 1000)
    answer = requests.post(f"{address}/{path}", bytes(2000), timeout=60)
    assert (answer.status_code, answer.json()) == (413, {"error": "has more than 1,000 bytes"})


def test_only_loopback_is_served_and_only_under_its_own_name(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    other = requests.get(address, headers={"Host": "attacker.example"}, timeout=60)
    assert other.status_code == 400
    page = requests.get(address, timeout=60)
    assert "connect-src 'self'" in page.headers["Content-Security-Policy"]
    assert requests.get(f"{address}/docs", timeout=60).status_code == 404


def test_without_a_network_it_says_where_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StageError, match="`dvc pull` fetches"):
        load_networks(tmp_path)
    assert main(["app", "--models", str(tmp_path)]) == 1
    assert "`make repro` trains it here" in capsys.readouterr().err


def test_a_photograph_is_uploaded_and_shown_in_chromium(address: str, tmp_path: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed")
    chosen, broken = tmp_path / "pet <b>.png", tmp_path / "broken.jpg"
    photograph(300, 200).save(chosen)
    broken.write_bytes(b"not an image")
    with Tab(program, 1280, 1000) as tab:
        tab("Page.navigate", url=address)
        tab.wait_for("document.readyState === 'complete' && document.querySelector('#file')?.type")
        tab.upload("#file", broken)
        told = tab.wait_for("document.querySelector('#status.error')?.textContent")
        assert told.startswith("broken.jpg is not an image of a known format")
        tab.upload("#file", chosen)
        tab.wait_for("document.querySelector('#status:not(.error)')?.textContent.endsWith('done')")
        told = tab.evaluate("document.querySelector('#status').textContent")
        assert told == "pet <b>.png: done"
        tab.wait_for("[...document.images].every((image) => image.complete)")
        images = tab.evaluate(
            "[...document.images].map((image) => [image.alt, image.naturalWidth])"
        )
        assert images == [
            ["the photograph", 300],
            *([f"{kind} by {name}", 300] for name in ("colors", "seen")
              for kind in ("mask", "overlay", "cutout")),
        ]  # fmt: skip
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
        # The photograph and what the networks say about it are side by side.
        tops, lefts = (
            tab.evaluate(
                "['.photograph', '.network', '.network + .network'].map((part) =>"
                f" document.querySelector(part).getBoundingClientRect().{side})"
            )
            for side in ("top", "left")
        )
        assert len(set(tops)) == 1
        assert lefts == sorted(set(lefts))
        legend = tab.evaluate(
            "[...document.querySelectorAll('.legend li')].map((e) => e.innerText)"
        )
        assert legend == ["pet", "background", "border"]
        box = tab.evaluate("JSON.stringify(document.querySelector('.mask img')"
                           ".getBoundingClientRect())")  # fmt: skip
        shot = tab.screenshot()
        (tmp_path / "page.png").write_bytes(shot)
        # No other machine is contacted, and the answer 422 is the only complaint.
        assert {url.split("/")[2] for url in tab.requested if url.startswith("http")} == {
            address.removeprefix("http://")
        }
        assert [text for text in tab.complaints if "422" not in text] == []
    _shows_the_pet(shot, box)


def _shows_the_pet(screenshot: bytes, box: str) -> None:
    """In the middle of the mask the colour of pet is seen, and in its corner the background's."""
    place = json.loads(box)
    pixels = np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB")).astype(int)
    middle = (place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    corner = (place["x"] + place["width"] / 12, place["y"] + place["height"] / 12)
    for (x, y), color in zip((middle, corner), class_rgb().tolist()[:2], strict=True):
        assert np.abs(pixels[round(y), round(x)] - color).max() < 8
