"""What the report says of the exports."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from stages.plot.page import Block, Bullets, Code, Paragraph, Phrase, Section, Table

TITLES = {
    "keras": "Keras",
    "saved_model": "SavedModel",
    "litert_float32": "LiteRT float32",
    "litert_float16": "LiteRT float16",
    "litert_int8": "LiteRT int8",
    "onnx": "ONNX",
}


class ExportFigures(BaseModel):
    """One export on the whole test split."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    bytes: int
    agreement: float  # share of the pixels whose class is that of the Keras model
    mean_iou: float
    iou_loss: float  # against the Keras model; below 0 where it gains


class Exports(BaseModel):
    """The contents of metrics/<network>.exports.csv; `formats` begins with the Keras model."""

    model_config = ConfigDict(frozen=True)

    images: int
    formats: dict[str, ExportFigures]


def exports_section(
    names: Mapping[str, Phrase],
    exports: Mapping[str, Exports],
    latencies: Mapping[str, Mapping[str, Any]],
) -> Section:
    """The exports side by side.

    Args:
        names: By network, what people call it.
        exports: By network.
        latencies: By network and format, milliseconds for one picture, where `export` ran on this
            machine.
    """
    rows: list[list[Phrase]] = []
    for network, found in exports.items():
        for kind, figures in found.formats.items():
            milliseconds = latencies[network].get(kind)
            rows.append(
                [
                    (names[network], f", {TITLES.get(kind, kind)}"),
                    f"{figures.bytes / 1e6:.2f} MB",
                    f"{100 * figures.agreement:.2f} %",
                    f"{figures.mean_iou:.4f}",
                    "not recorded" if milliseconds is None else f"{milliseconds:.1f} ms",
                ]
            )
    images = next(iter(exports.values())).images
    folders: list[Phrase] = []
    for network in exports:
        folders += [", " * bool(folders), Code(f"models/{network}.export/")]
    blocks: list[Block] = [
        Paragraph(
            ("The networks in the forms that run without Keras, with a model card: ", *folders)
        ),
        Table(
            ["Export", "Size", "Same class as Keras", "Mean IoU", "Latency"],
            rows,
            f"On the {images:,} test pictures, without their mirror images. Latency: the median for"
            " one picture, all forms of a network in turn in one run.",
        ),
        Bullets(
            [
                "SavedModel takes photographs of any size and resizes them itself; the others take"
                " the network's own size.",
                "int8 goes in whole numbers through all layers; the range of each comes from"
                " training pictures.",
            ]
        ),
    ]
    return Section("Exports", blocks)
