"""A network as LiteRT, on photographs."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pets.photograph import PhotographError, Source, read_photograph
from pets.segmentation import Probabilities, Segmentation, at_size
from stages.records.resizing import network_input
from stages.stage import StageError

# The networks that ship: <network>-<version>.tflite, and a card of each.
WEIGHTS = Path(__file__).parent / "weights"


class Segmenter:
    """A network that segments photographs; loaded once, for use from any number of threads."""

    def __init__(
        self, network: str = "unet", *, models: Path | None = None, flip: bool = False
    ) -> None:
        """Loads a network.

        Args:
            network: "unet", or "conv_deconv", which is small and much worse.
            models: A workspace's folder of trained networks and their exports, to take it from
                there; by default it is the one that ships.
            flip: Average the probabilities with those of the mirror image: twice the time.

        Raises:
            StageError: There is no such network, or its file is damaged.
        """
        files = network_files(models)
        if network not in files:
            place = f"{models} has no LiteRT export of" if models else "there is no network"
            others = f"; there is {', '.join(sorted(files))}" if files else ""
            remedy = f"; `dvc repro export@{network}` makes it" if models else ""
            raise StageError(f"{place} {network!r}{remedy}{others}")
        self._path = files[network]
        if models:
            _check_source(self._path.parent, models / f"{network}.keras")
        self.name = network if models else self._path.stem
        self.flip = flip
        self._threads = threading.local()  # an interpreter has one input
        self.image_size = int(self._runner().get_input_details()["image"]["shape"][1])

    def segment(self, source: Source, size: tuple[int, int] | None = None) -> Segmentation:
        """Segments a photograph at its own size, or at another width and height.

        Args:
            source: A path; the content of a file; a Pillow image; or uint8 [height, width, 3].
            size: The result's.

        Raises:
            PhotographError: It cannot be read, or the network's answer to it is not finite.
        """
        image = read_photograph(source)
        pixels = network_input(image, self.image_size)
        probabilities = self.probabilities(pixels)
        if not np.isfinite(probabilities).all():
            raise PhotographError("gets no finite numbers: the network's weights are broken")
        if size:
            image = image.resize(size)
        return at_size(probabilities, image)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> Probabilities:
        """From uint8 [image_size, image_size, 3] to float32 [image_size, image_size, class]."""
        found = self._softmax(pixels)
        if self.flip:
            found = (found + self._softmax(pixels[:, ::-1])[:, ::-1]) / np.float32(2)
        return found

    def _softmax(self, pixels: npt.NDArray[np.uint8]) -> Probabilities:
        run = self._runner()
        dtype = run.get_input_details()["image"]["dtype"]  # uint8, or float32 in 0 to 255
        logits = run(image=pixels[None].astype(dtype))["logits"][0]
        powers: Probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def _runner(self) -> Any:
        """The interpreter of this thread."""
        if not hasattr(self._threads, "runner"):
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

            try:
                interpreter = Interpreter(os.fspath(self._path), num_threads=1)
                self._threads.runner = interpreter.get_signature_runner()
            except ValueError as error:
                reason = str(error).partition("\n")[0]
                raise StageError(f"{self._path} is damaged: {reason}") from error
        return self._threads.runner


def network_files(models: Path | None = None) -> dict[str, Path]:
    """LiteRT files by network: those that ship, or the most exact of each export in a folder."""
    if models is None:
        return {path.stem.partition("-")[0]: path for path in WEIGHTS.glob("*.tflite")}
    found = {}
    for precision in ("int8", "float16", "float32"):
        for path in models.glob(f"*.export/*.{precision}.tflite"):
            found[path.parent.stem] = path
    return found


def _check_source(export: Path, model: Path) -> None:
    """Checks that an export was made from the network that lies beside it."""
    source = export / "source.json"
    if model.is_file():
        digest = hashlib.sha256(model.read_bytes()).hexdigest()
        if not source.is_file() or digest.encode() not in source.read_bytes():
            remedy = f"`dvc repro export@{model.stem}` makes it again"
            raise StageError(f"{export} was not made from this {model.name}; {remedy}")
