"""The card that lies beside the exports: what the network is, how good, and where it fails.

Its front matter is that of Hugging Face's model cards (Mitchell et al., "Model Cards for Model
Reporting", 2019).
"""

from collections.abc import Mapping
from typing import Any

import yaml

from stages.export.export_files import SOURCE_FILE
from stages.metrics.comparison import FEW_IMAGES, Results
from stages.records.manifest import Manifest

# Slices that a card names, those with the lowest mean IoU.
WORST_SLICES = 5
LICENCES = {
    "oxford_iiit_pet": (
        "cc-by-sa-4.0",
        "Oxford-IIIT Pet (Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012) is"
        " [CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/); its photographs stay"
        " their owners'.",
    ),
    "synthetic_pets": (
        "other",
        "The pictures of synthetic_pets are drawn by the repository that this network comes from;"
        " no photograph is among them.",
    ),
}
RUN = {
    "saved_model": (
        "SavedModel",
        "uint8 photographs [batch, height, width, 3] of any size to `mask` and `confidence` at"
        " that size: `tf.saved_model.load(FOLDER).serve(images)`",
    ),
    "litert_float32": ("LiteRT, float32", "float32 [1, {size}, {size}, 3] in 0 to 255 to logits"),
    "litert_float16": (
        "LiteRT, float16 weights",
        "float32 [1, {size}, {size}, 3] in 0 to 255 to logits",
    ),
    "litert_int8": ("LiteRT, int8", "uint8 [1, {size}, {size}, 3] to logits"),
    "onnx": ("ONNX", "float32 [batch, {size}, {size}, 3] in 0 to 255 to logits"),
    "keras": ("Keras", "float32 [batch, {size}, {size}, 3] in 0 to 255 to logits"),
}


def card(
    network: str,
    results: Results,
    manifest: Manifest,
    exports: Mapping[str, Any],
    files: Mapping[str, str],
    *,
    flip: bool,
    encoder_weights: str,
) -> str:
    """Writes a model card in Markdown.

    Args:
        network: Its name.
        results: What `evaluate` measured.
        manifest: Of the records.
        exports: What `export` measured of its formats.
        files: By format, its file or folder.
        flip: Whether `evaluate` took the mean over each picture and its mirror image.
        encoder_weights: What the encoder started from, as of params.yaml.
    """
    licence, terms = LICENCES.get(
        manifest.dataset,
        ("other", f"The terms of {manifest.dataset} are those of its authors; look them up."),
    )
    dataset = f"{manifest.dataset} {manifest.version}"
    names = manifest.class_names
    metrics = {
        "mean IoU": ("mean_iou", results.mean_iou),
        "accuracy": ("accuracy", results.accuracy),
    }
    front = {
        "license": licence,
        "library_name": "keras",
        "pipeline_tag": "image-segmentation",
        "tags": ["image-segmentation", "pets", "litert", "onnx"],
        "model-index": [
            {
                "name": network,
                "results": [
                    {
                        "task": {"type": "image-segmentation"},
                        "dataset": {
                            "name": dataset,
                            "type": manifest.dataset,
                            "split": "test",
                        },
                        "metrics": [
                            {"type": kind, "name": name, "value": value}
                            for name, (kind, value) in metrics.items()
                        ],
                    }
                ],
            }
        ],
    }
    splits = ", ".join(f"{split.examples:,} {name}" for name, split in manifest.splits.items())
    started = {
        "none": "All weights started from random values.",
        "imagenet": "The encoder started from weights trained on ImageNet, whose terms apply too.",
    }.get(encoder_weights, "The encoder started from the weights of a file; its terms apply too.")
    size = manifest.image_size
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {network}",
        f"Says of each pixel of a photograph whether it is {names[0]}, {names[1]} or {names[2]}"
        f" (classes 0, 1, 2). The network sees photographs at {size} x {size} pixels, whatever"
        " their proportions are.",
        "## Intended use",
        "To find one cat or dog in an everyday photograph: to cut it out, to blur what is behind"
        " it, to study how such networks are trained. Not for decisions about animals or people,"
        " not to tell breeds or individuals apart, and not for pictures without a pet, of which"
        " the data has next to none.",
        "## Data",
        f"{dataset}: {splits} pictures, the validation pictures cut from the training split by a"
        f" hash of their names. {started} {terms}",
        "## Figures",
        f"On the {results.images:,} test pictures, with 95 % intervals by bootstrap over pictures"
        f"{', the mean over each picture and its mirror image' if flip else ''}; the baseline"
        " predicts the most frequent class at each position.",
        _figures(results, names),
        "## Where it fails",
        _failures(results),
        "## Files",
        f"Each was run on the whole test split beside the Keras model{_plainly(flip)}.",
        _files(exports, files, size),
        f"`{SOURCE_FILE}` has the checksum of the Keras model that they were made from.",
    ]
    return "\n\n".join(parts) + "\n"


def _figures(results: Results, names: list[str]) -> str:
    intervals, baseline = results.intervals, results.baseline
    rows = [
        ("accuracy", results.accuracy, intervals.accuracy, baseline.accuracy),
        ("mean IoU", results.mean_iou, intervals.mean_iou, baseline.mean_iou),
        *(
            (f"IoU {name}", results.iou[name], intervals.iou[name], baseline.iou[name])
            for name in names
        ),
        *(
            (f"boundary F, {key}", value, intervals.boundary_f[key], baseline.boundary_f[key])
            for key, value in results.boundary_f.items()
        ),
        ("calibration error", results.calibration_error, intervals.calibration_error, None),
    ]
    lines = ["| figure | value | 95 % interval | baseline |", "| --- | --- | --- | --- |"]
    for name, value, (low, high), other in rows:
        lines.append(f"| {name} | {_number(value)} | {_number(low)} to {_number(high)} |"
                     f" {_number(other)} |")  # fmt: skip
    return "\n".join(lines)


def _failures(results: Results) -> str:
    slices = [
        (part.mean_iou, f"{group.replace('_', ' ')}: {name.replace('_', ' ')}", part)
        for group, parts in results.slices.items()
        for name, part in parts.items()
        if not part.few
    ]
    if not slices:
        return f"No slice of the test split has {FEW_IMAGES} pictures: nothing can be said."
    slices.sort(key=lambda entry: entry[:2])
    lines = [
        f"The slices with the lowest mean IoU ({results.mean_iou:.3f} over all), of those with at"
        f" least {FEW_IMAGES} test pictures:",
        "",
        "| slice | pictures | mean IoU | baseline |",
        "| --- | --- | --- | --- |",
    ]
    for score, name, part in slices[:WORST_SLICES]:
        name = name.replace("|", r"\|")  # noqa: PLW2901
        lines.append(f"| {name} | {part.images} | {score:.3f} | {part.baseline_mean_iou:.3f} |")
    class_name, score = min(
        ((name, value) for name, value in results.iou.items() if value is not None),
        key=lambda entry: entry[1],
    )
    lines += ["", f"Of the classes, {class_name} is met worst: IoU {score:.3f}."]
    if results.mean_iou < results.baseline.mean_iou:
        lines[-1] += (
            f" Over all, the baseline is better ({results.baseline.mean_iou:.3f}): this network has"
            " not learned enough to be used."
        )
    return "\n".join(lines)


def _files(exports: Mapping[str, Any], files: Mapping[str, str], size: int) -> str:
    lines = [
        "| file | what it takes and gives | bytes | same class as Keras | mean IoU |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, figures in exports["formats"].items():
        title, use = RUN[kind]
        file = f"`{files[kind]}`" if kind in files else "the Keras model"
        lines.append(
            f"| {file}, {title} | {use.format(size=size)} | {figures['bytes']:,} |"
            f" {100 * figures['agreement']:.2f} % | {figures['mean_iou']:.4f} |"
        )
    return "\n".join(lines)


def _plainly(flip: bool) -> str:
    return ", without the mirror image" if flip else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"  # noqa: RUF001  an en dash, as in the report
