"""The page in the browser: its server on loopback, and a real upload in Chromium."""

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
from pets.app import application, load_networks
from pets.network import Network
from pets.prediction import at_own_size
from stages.records.classes import class_rgb
from stages.records.resizing import network_input
from stages.stage import StageError
from tests.chromium import Tab, find_chromium
from tests.color_networks import photograph


@pytest.fixture(scope="module")
def networks(color_networks: Path) -> dict[str, Network]:
    return {name: Network(color_networks / f"{name}.keras") for name in ("colors", "seen")}


@pytest.fixture(scope="module")
def address(networks: dict[str, Network]) -> Iterator[str]:
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


def _picture(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_each_network_answers_with_mask_overlay_and_cutout(
    address: str, networks: dict[str, Network]
) -> None:
    answer = requests.post(f"{address}/predict", _encoded(photograph(), "PNG"), timeout=60).json()
    assert _picture(answer["photograph"]).size == (90, 60)
    assert list(answer["networks"]) == list(networks)
    for name, found in answer["networks"].items():
        picture = network_input(photograph(), networks[name].image_size)
        (probabilities,) = networks[name].probabilities(picture[None])
        expected = at_own_size(probabilities, (90, 60))
        np.testing.assert_array_equal(np.asarray(_picture(found["mask"])), expected.mask)
        opacity = np.asarray(_picture(found["cutout"]))[..., 3]
        np.testing.assert_array_equal(opacity, expected.opacity)
        assert _picture(found["overlay"]).size == (90, 60)
        assert sum(found["shares"].values()) == pytest.approx(1)
        assert found["confidence"] == pytest.approx(expected.confidence)


def test_a_large_photograph_is_shown_smaller(address: str) -> None:
    content = _encoded(photograph(2000, 4000), "JPEG")
    answer = requests.post(f"{address}/predict", content, timeout=60).json()
    assert _picture(answer["networks"]["colors"]["mask"]).size == (800, 1600)


def test_what_is_no_photograph_is_refused_with_the_reason(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = requests.post(f"{address}/predict", b"no picture", timeout=60)
    assert (answer.status_code, answer.json()) == (
        422, {"error": "is not a picture of a known format"}
    )  # fmt: skip
    monkeypatch.setattr(app, "MAX_BYTES", 1000)
    answer = requests.post(f"{address}/predict", bytes(2000), timeout=60)
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
    assert app.serve(tmp_path, 7860) == 1
    assert "`make repro` trains it here" in capsys.readouterr().err


def test_a_photograph_is_uploaded_and_shown_in_chromium(address: str, tmp_path: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium is not installed")
    chosen, broken = tmp_path / "pet <b>.png", tmp_path / "broken.jpg"
    photograph(300, 200).save(chosen)
    broken.write_bytes(b"no picture")
    with Tab(program, 1280, 1000) as tab:
        tab("Page.navigate", url=address)
        tab.wait_for("document.readyState === 'complete' && document.querySelector('#file')?.type")
        tab.upload("#file", broken)
        told = tab.wait_for("document.querySelector('#status.error')?.textContent")
        assert told == "broken.jpg is not a picture of a known format"
        tab.upload("#file", chosen)
        tab.wait_for("document.querySelector('#status:not(.error)')?.textContent.endsWith('done')")
        told = tab.evaluate("document.querySelector('#status').textContent")
        assert told == "pet <b>.png: done"
        tab.wait_for("[...document.images].every((image) => image.complete)")
        pictures = tab.evaluate(
            "[...document.images].map((image) => [image.alt, image.naturalWidth])"
        )
        assert pictures == [
            ["the photograph", 300],
            *([f"{kind} by {name}", 300] for name in ("colors", "seen")
              for kind in ("mask", "overlay", "cutout")),
        ]  # fmt: skip
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
        # What the networks say of the photograph is side by side, beside it.
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
        # Nothing is asked of any other machine, and the answer 422 is the only complaint.
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
