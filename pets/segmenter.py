"""A network on photographs."""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pets.segmentation import Probabilities, Segmentation, at_size
from stages.records.photograph import PhotographError, Source, network_input, read_photograph
from stages.stage import StageError

# The networks that ship: <network>-<version>.tflite, and a card of each.
WEIGHTS = Path(__file__).parent / "weights"


class LiteRT(threading.local):
    """The network of a LiteRT file; each thread has an interpreter, because one has one input."""

    def __init__(self, path: Path) -> None:
        """Opens a file, in each thread that uses it; raises StageError if it is damaged."""
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

        try:
            self._run = Interpreter(os.fspath(path), num_threads=1).get_signature_runner()
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise StageError(f"{path} is damaged: {reason}") from error
        taken = self._run.get_input_details()["image"]
        self.image_size = int(taken["shape"][1])
        self._dtype = taken["dtype"]  # uint8, or float32 in 0 to 255

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """From [batch, image_size, image_size, 3] to [batch, image_size, image_size, class]."""
        taken = images.astype(self._dtype)
        return np.concatenate([self._run(image=image[None])["logits"] for image in taken])


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
    for precision in ("int8", "dynamic", "float16", "float32"):
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
