"""`pets app`: its server on loopback, and a real upload in Chromium."""

import base64
import io
import shutil
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
from pets.segmenter import Segmenter
from tests.chromium import Tab, find_chromium
from tests.color_networks import photograph
from tests.encoding import encoded


@pytest.fixture(scope="module")
def networks(color_networks: Path) -> dict[str, Segmenter]:
    return {name: Segmenter(name, models=color_networks) for name in ("colors", "seen")}


@pytest.fixture(scope="module")
def address(networks: dict[str, Segmenter]) -> Iterator[str]:
    """Where the page is served, by uvicorn in a thread."""
    config = uvicorn.Config(app.application(networks), host=app.HOST, port=0, log_level="warning")
    socket = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://{app.HOST}:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


def _decoded(data_uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2])))


def test_each_network_answers_with_mask_overlay_and_cutout(
    address: str, networks: dict[str, Segmenter]
) -> None:
    content = encoded(photograph())
    answer = requests.post(f"{address}/predict", content, timeout=60).json()
    assert _decoded(answer["photograph"]).size == (90, 60)
    assert list(answer["networks"]) == list(networks)
    for name, found in answer["networks"].items():
        expected = networks[name].segment(photograph())
        np.testing.assert_array_equal(np.asarray(_decoded(found["mask"])), expected.mask)
        opacity = np.asarray(_decoded(found["cutout"]))[..., 3]
        np.testing.assert_array_equal(opacity, expected.opacity)
        assert _decoded(found["overlay"]).size == (90, 60)
        assert sum(found["shares"].values()) == pytest.approx(1)
        assert found["confidence"] == pytest.approx(expected.confidence)
        alone = requests.post(f"{address}/mask?network={name}", content, timeout=60)
        assert (alone.status_code, alone.headers["content-type"]) == (200, "image/png")
        mask = Image.open(io.BytesIO(alone.content))
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), expected.mask)


def test_a_large_photograph_is_shown_smaller(address: str) -> None:
    content = encoded(photograph(1000, 2000), "JPEG")
    answer = requests.post(f"{address}/predict", content, timeout=60).json()
    assert _decoded(answer["networks"]["colors"]["mask"]).size == (800, 1600)


@pytest.mark.parametrize("path", ["predict", "mask?network=seen"])
def test_what_is_not_a_photograph_is_refused_with_the_reason(
    address: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_BYTES", 1000)
    chunks = iter([b"of unknown length"])
    for content, reason in (
        (b"not an image", "of an unknown format"),
        (bytes(2000), "has more than 1,000 bytes"),
        (chunks, "has more than 1,000 bytes, or does not say"),
    ):
        answer = requests.post(f"{address}/{path}", content, timeout=60)
        assert answer.status_code == 422
        assert reason in answer.json()["error"]


def test_only_loopback_is_served_and_only_under_its_own_name(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    other = requests.get(address, headers={"Host": "attacker.example"}, timeout=60)
    assert other.status_code == 400
    page = requests.get(address, timeout=60)
    assert "connect-src 'self'" in page.headers["Content-Security-Policy"]
    answer = requests.post(f"{address}/mask", b"", timeout=60)
    assert answer.status_code == 404
    assert answer.json() == {"error": "there is no network 'unet'; there is colors, seen"}


def test_the_networks_that_ship_and_those_of_a_workspace_are_served(
    color_networks: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    served: list[list[str]] = []
    monkeypatch.setattr(app, "application", lambda networks: served.append([*networks]))
    monkeypatch.setattr(app.uvicorn, "run", lambda *_, **__: None)
    models = shutil.copytree(color_networks, tmp_path / "models")
    (models / "stale.export").mkdir()
    (models / "stale.export/stale.int8.tflite").write_bytes(b"nothing")
    assert main(["app", "--models", str(models)]) == 0
    workspace = [f"models/{name}" for name in ("broken", "colors", "seen")]
    assert served == [["conv_deconv", "unet", *workspace]]
    assert "stale is left out: " in capsys.readouterr().err


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
        assert told.startswith("broken.jpg is empty, broken or of an unknown format")
        tab.upload("#file", chosen)
        tab.wait_for("document.querySelector('#status:not(.error)')?.textContent.endsWith('done')")
        told = tab.evaluate("document.querySelector('#status').textContent")
        assert told == "pet <b>.png: done"
        tab.wait_for("[...document.images].every((image) => image.complete)")
        images = tab.evaluate("[...document.images].map((i) => `${i.alt} ${i.naturalWidth}`)")
        kinds = ("mask", "overlay", "cutout")
        answers = [f"{kind} by {name} 300" for name in ("colors", "seen") for kind in kinds]
        assert images == ["the photograph 300", *answers]
        # The photograph and what the networks say about it are side by side.
        places = tab.evaluate(
            "[...document.querySelectorAll('section')].map((part) => part.getBoundingClientRect())"
            ".map((box) => [box.top, box.left, box.right])"
        )
        tops, lefts, rights = zip(*places, strict=True)
        assert len(set(tops)) == 1
        assert lefts == tuple(sorted(set(lefts)))
        assert max(rights) <= 1280
        # No other machine is contacted, and the answer 422 is the only complaint.
        hosts = {url.split("/")[2] for url in tab.requested if url.startswith("http")}
        assert hosts == {address.removeprefix("http://")}
        assert [text for text in tab.complaints if "422" not in text] == []
