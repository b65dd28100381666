"""A network on photographs."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pets.segmentation import Probabilities, Segmentation, at_size
from stages.records.photograph import PhotographError, Source, network_input, read_photograph
from stages.stage import StageError

# The networks that ship: <network>-<version>.tflite, and a card of each.
WEIGHTS = Path(__file__).parent / "weights"


class LiteRT:
    """The interpreters of a file, one for each thread that asks: they have one input each."""

    def __init__(self, path: Path) -> None:
        """Opens a file; raises StageError if it is damaged."""
        self.path = path
        self._threads = threading.local()
        self.image_size = int(self._runner().get_input_details()["image"]["shape"][1])

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """From [batch, image_size, image_size, 3] to [batch, image_size, image_size, class]."""
        run = self._runner()
        dtype = run.get_input_details()["image"]["dtype"]  # uint8, or float32 in 0 to 255
        return np.concatenate([run(image=image[None].astype(dtype))["logits"] for image in images])

    def _runner(self) -> Any:
        if not hasattr(self._threads, "runner"):
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

            try:
                interpreter = Interpreter(os.fspath(self.path), num_threads=1)
                self._threads.runner = interpreter.get_signature_runner()
            except ValueError as error:
                reason = str(error).partition("\n")[0]
                raise StageError(f"{self.path} is damaged: {reason}") from error
        return self._threads.runner


class Segmenter:
    """A network that segments photographs; loaded once, for use from any number of threads."""

    def __init__(
        self, network: str = "unet", *, models: str | Path | None = None, flip: bool = False
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
        folder = Path(models) if models else None
        files = network_files(folder)
        if network not in files:
            place = f"{folder} has no LiteRT export of" if folder else "there is no network"
            others = f"; there is {', '.join(sorted(files))}" if files else ""
            remedy = f"; `dvc repro export@{network}` makes it" if folder else ""
            raise StageError(f"{place} {network!r}{remedy}{others}")
        if folder:
            _check_source(files[network].parent, folder / f"{network}.keras")
        self._network = LiteRT(files[network])
        self.name = network if models else files[network].stem
        self.flip = flip

    def segment(self, source: Source, size: tuple[int, int] | None = None) -> Segmentation:
        """Segments a photograph at its own size, or at another width and height.

        Args:
            source: A path; the content of a file; a Pillow image; or uint8 [height, width, 3].
            size: The result's.

        Raises:
            PhotographError: It cannot be read, or the network's answer to it is not finite.
        """
        image = read_photograph(source)
        pixels = network_input(image, self._network.image_size)
        seen = [pixels, pixels[:, ::-1]] if self.flip else [pixels]
        logits = self._network.logits(np.stack(seen))
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = powers / powers.sum(axis=-1, keepdims=True)
        if self.flip:
            probabilities[1] = probabilities[1, :, ::-1]
        mean: Probabilities = probabilities.mean(axis=0)
        if not np.isfinite(mean).all():
            raise PhotographError("gets no finite numbers: the network's weights are broken")
        return at_size(mean, image.resize(size) if size else image)


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
