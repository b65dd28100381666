"""What the report says, as a document of `stages.page`; the numbers come from `comparison`."""

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from stages.metrics import comparison
from stages.metrics.comparison import Difference, ImageTable, Path, Results, SliceRow
from stages.plot.export_report import Exports, exports_section
from stages.plot.figures import History, kept_epoch
from stages.plot.page import (
    Beside,
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Listing,
    Paragraph,
    Phrase,
    Picture,
    Score,
    Scores,
    Section,
    Small,
    Strong,
    Swatch,
    Table,
)
from stages.records.classes import NEUTRAL, network_color
from stages.records.manifest import Manifest

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
GROUPS = {"species": "Species", "pet_size": "Pet size", "breed": "Breed"}
# Figures with photographs in them, which the page has as WebP.
PHOTOGRAPHIC = ("predictions", "samples", "worst", "best")


class Findings(NamedTuple):
    """What the report is about; dictionaries by network are in the order of `networks`."""

    manifest: Manifest
    manifest_sha256: str
    results: dict[str, Results]
    tables: dict[str, ImageTable]
    histories: dict[str, History]
    # The best network less the next; None if there is one network only.
    differences: dict[Path, Difference] | None
    slices: dict[str, list[SliceRow]]
    # By network and by "worst" and "best", places in the network's table.
    extremes: dict[str, dict[str, list[int]]]
    # By stage, its record of stages.run_record; None where the stage did not run on this machine.
    runs: dict[str, dict[str, Any] | None]
    exports: dict[str, Exports]
    # Flat keys of params.yaml, and of the committed one if that is known.
    params: dict[str, Any]
    committed_params: dict[str, Any] | None


def title(network: str) -> str:
    """A network's name for people."""
    return {"conv_deconv": "Conv-Deconv", "unet": "U-Net"}.get(network, network)


def document(findings: Findings) -> Document:
    """The whole report."""
    manifest, results = findings.manifest, findings.results
    return Document(
        title="Pet segmentation report",
        subtitle=(
            f"{manifest.dataset} {manifest.version}, {_count(_images(findings), 'test picture')},"
            f" {manifest.image_size} {TIMES} {manifest.image_size} pixels"
        ),
        lead=verdict(findings),
        opening=[
            Scores(
                "Mean IoU on the test pictures, with its 95 % interval",
                [
                    *(
                        Score(
                            title(name),
                            network_color(index),
                            figures.mean_iou,
                            *figures.intervals.mean_iou,
                        )
                        for index, (name, figures) in enumerate(results.items())
                    ),
                    Score("Baseline", NEUTRAL, _baseline(findings).mean_iou, None, None),
                ],
            )
        ],
        sections=[
            _comparison(findings),
            _training(findings),
            _predictions(findings),
            _confusion(findings),
            _calibration(findings),
            *_slices(findings),
            _extremes(findings),
            _samples(findings),
            _exports(findings),
            _run(findings),
        ],
    )


def verdict(findings: Findings) -> str:
    """Which network is better, by how much, and how sure that is, in one sentence."""
    results, images = findings.results, _count(_images(findings), "test picture")
    best, *others = comparison.ranking(results)
    value = results[best].mean_iou
    if not others or findings.differences is None:
        low, high = results[best].intervals.mean_iou
        above = value - _baseline(findings).mean_iou
        side = "above" if above >= 0 else "below"
        return (
            f"{title(best)} has a mean IoU of {value:.3f} on {images} (95 % interval"
            f" {_range(low, high)}), {abs(above):.3f} {side} the {_baseline(findings).mean_iou:.3f}"
            " of the baseline, which has learned nothing but the most frequent class at each"
            " position."
        )
    other = others[0]
    gap = findings.differences[("mean_iou",)]
    numbers = (
        f"{value:.3f} against {results[other].mean_iou:.3f} on {images}, a difference of"
        f" {_signed(gap.value)} with a paired 95 % interval from {_signed(gap.low)} to"
        f" {_signed(gap.high)}"
    )
    runner_up = f"{title(other)}, the next best" if len(others) > 1 else title(other)
    if _images(findings) < comparison.FEW_IMAGES:
        return (
            f"{title(best)} has the higher mean IoU, {numbers}; with so few pictures neither the"
            f" interval nor the order of {title(best)} and {runner_up} is to be trusted."
        )
    if gap.excludes_zero:
        return (
            f"{title(best)} is better than {runner_up}: its mean IoU is {numbers}, which"
            " excludes zero."
        )
    return (
        f"{title(best)} is not clearly better than {runner_up}: its mean IoU is {numbers}, which"
        " includes zero."
    )


def command(params: Mapping[str, Any], committed: Mapping[str, Any] | None) -> str:
    """The command that repeats the run from the committed state."""
    changes = [] if committed is None else _changes(params, committed)
    parts = []
    for key, before, now in changes:
        if now is _ABSENT:
            parts.append(f"~{key}")
        else:
            parts.append(f"{'+' if before is _ABSENT else ''}{key}={_override(now)}")
    if not parts:
        return "dvc repro"
    return "dvc exp run " + " ".join(f"-S {_shell_word(part)}" for part in parts)


# --- the sections ---


def _comparison(findings: Findings) -> Section:
    manifest, results = findings.manifest, findings.results
    best, *others = comparison.ranking(results)
    names = list(results)
    header: list[Phrase] = ["Figure", *map(_name, range(len(names)), names), "Baseline"]
    if findings.differences is not None:
        header.append(f"{title(best)} {MINUS} {title(others[0])}")
    rows = []
    for label, path in metric_paths(manifest):
        values = [comparison.figure(results[name], path) for name in names]
        defined = [value for value in values if value is not None]
        lower_is_better = path[0] in ("loss", "calibration_error")
        top = (min if lower_is_better else max)(defined, default=None)
        row: list[Phrase] = [label]
        for name, value in zip(names, values, strict=True):
            interval = comparison.figure(results[name].intervals, path)
            row.append(_with_interval(value, interval, strong=len(names) > 1 and value == top))
        row.append(_number(comparison.figure(_baseline(findings), path)))
        if findings.differences is not None:
            row.append(_difference(findings.differences.get(path)))
        rows.append(row)
    caption = (
        f"{_images(findings)} test pictures. Beside the figures: 95 % intervals,"
        " by bootstrap over pictures."
    )
    if len(names) > 1:
        caption += " Bold: the better value." if len(names) == 2 else " Bold: the best value."
    blocks: list[Block] = [
        Table(header, rows, caption),
        Picture(
            "comparison.png",
            "Dot plot of all figures from 0 to 1 with their intervals, by network and baseline",
            "Dots and bars: networks and their 95 % intervals. Crosses: the baseline.",
            narrow="comparison.narrow.png",
        ),
        Bullets(
            [
                (Strong("Mean IoU"), " is overlap over union of each class, counted over all"
                 " pixels of the test split, averaged over the classes; ", Strong("per picture"),
                 " it is taken of each picture and then averaged."),
                (Strong("Pet IoU"), " is for comparison with others: some count the border as"
                 " pet, some leave the pixels out that are truly border."),
                (Strong("Boundary F"), " says how well the animal's outline is met, within 1, 2"
                 " or 3 pixels, averaged over pictures."),
                (Strong("Calibration error"), " is the mean gap between how sure a network is"
                 " and how often it is right; ", Strong("loss"), " is the mean cross-entropy of"
                 " a pixel. Of these two, less is better."),
                (Strong("Baseline"), " is the most frequent class of the training masks at each"
                 " position, whatever the picture; it has no confidence and hence no calibration"
                 " error and no loss."),
                ("The intervals say what another choice of test pictures would change, not what"
                 " another training run would."),
            ]
        ),
        Details("Precision, recall and Dice of each class", [_per_class(findings)]),
    ]  # fmt: skip
    return Section("Comparison", blocks)


def metric_paths(manifest: Manifest) -> list[tuple[str, Path]]:
    """The figures of the comparison: what they are called and where they are."""
    return [
        ("Accuracy", ("accuracy",)),
        ("Mean IoU", ("mean_iou",)),
        ("Mean IoU per picture", ("mean_image_iou",)),
        *((f"IoU {name}", ("iou", name)) for name in manifest.class_names),
        ("Pet IoU, border as pet", ("pet_iou", "border_as_pet")),
        ("Pet IoU, border left out", ("pet_iou", "border_left_out")),
        ("Boundary F, 1 px", ("boundary_f", "1px")),
        ("Boundary F, 2 px", ("boundary_f", "2px")),
        ("Boundary F, 3 px", ("boundary_f", "3px")),
        ("Calibration error", ("calibration_error",)),
        ("Loss", ("loss",)),
    ]


def _per_class(findings: Findings) -> Table:
    rows: list[list[Phrase]] = []
    for label, key in (("Precision", "precision"), ("Recall", "recall"), ("Dice", "dice")):
        for name in findings.manifest.class_names:
            rows.append(
                [
                    f"{label} {name}",
                    *(
                        _number(comparison.figure(figures, (key, name)))
                        for figures in (*findings.results.values(), _baseline(findings))
                    ),
                ]
            )
    header = ["Figure", *map(_name, range(len(findings.results)), findings.results), "Baseline"]
    return Table(header, rows, "Over all pixels of the test split.")


def _training(findings: Findings) -> Section:
    rows: list[list[Phrase]] = []
    for index, (name, history) in enumerate(findings.histories.items()):
        kept = kept_epoch(history)
        rows.append(
            [
                _name(index, name),
                f"{history['epoch'][kept]:.0f} of {history['epoch'][-1]:.0f}",
                *(
                    _number(history[column][kept])
                    for column in ("loss", "val_loss", "accuracy", "val_accuracy", "val_mean_iou")
                ),
            ]
        )
    return Section(
        "Training",
        [
            Picture(
                "curves.png",
                "Line charts of loss and accuracy over the epochs, for training and validation",
                "Dashed: training; solid: validation. The dot is the epoch with the lowest"
                " validation loss; its weights were kept and tested.",
                narrow="curves.narrow.png",
            ),
            Table(
                ["Network", "Epoch kept", "Loss", "Validation loss", "Accuracy",
                 "Validation accuracy", "Validation mean IoU"],
                rows,
                "At the epoch whose weights were kept.",
            ),
        ],
    )  # fmt: skip


def _predictions(findings: Findings) -> Section:
    networks = ", ".join(title(name) for name in reversed(findings.results))
    return Section(
        "Predictions",
        [
            Paragraph("Test pictures taken at even distances from the split, not chosen by hand."),
            Picture(
                "predictions.png",
                f"Rows of a test picture, its true mask and the predictions of {networks}",
                on_page="predictions.webp",
            ),
        ],
    )


def _confusion(findings: Findings) -> Section:
    names = findings.manifest.class_names
    rows: list[list[Phrase]] = []
    for index, (network, figures) in enumerate(findings.results.items()):
        for true, counts in zip(names, figures.confusion_matrix, strict=True):
            total = max(sum(counts), 1)
            shares = [f"{100 * count / total:.1f} %" for count in counts]
            rows.append([(_name(index, network), f", {true}"), *shares, f"{sum(counts):,}"])
    return Section(
        "Confusion matrices",
        [
            Picture(
                "confusion.png",
                "A confusion matrix for each network, in per cent of each true class",
                "Rows are true classes and add up to 100 %.",
                narrow="confusion.narrow.png",
            ),
            Details(
                "The matrices as a table",
                [
                    Table(
                        ["True class", *(f"as {name}" for name in names), "pixels"],
                        rows,
                        "Share of the true class's pixels that is predicted as each class.",
                    )
                ],
            ),
        ],
    )


def _calibration(findings: Findings) -> Section:
    rows: list[list[Phrase]] = []
    bins = len(next(iter(findings.results.values())).reliability.pixels)
    for place in range(bins):
        row: list[Phrase] = [f"{place / bins:.2f} to {(place + 1) / bins:.2f}"]
        for figures in findings.results.values():
            curve = figures.reliability
            share = 100 * curve.pixels[place] / max(sum(curve.pixels), 1)
            row += [_number(curve.accuracy[place]), f"{share:.1f} %"]
        if any(figures.reliability.pixels[place] for figures in findings.results.values()):
            rows.append(row)
    header: list[Phrase] = ["Confidence"]
    for index, name in enumerate(findings.results):
        header += [(_name(index, name), " accuracy"), "pixels"]
    return Section(
        "Calibration",
        [
            Picture(
                "reliability.png",
                "Reliability diagram: accuracy over confidence, and the share of pixels per bin",
                "Above: on the diagonal, a network that is sure of a pixel to 80 % is right about"
                " 80 % of such pixels; below the diagonal it is too sure of itself. Below: how"
                " many of the test pixels are in each bin of confidence.",
            ),
            Details(
                "The curves as a table", [Table(header, rows, "Bins without pixels are left out.")]
            ),
        ],
    )


def _slices(findings: Findings) -> list[Section]:
    if not findings.slices:
        return []
    blocks: list[Block] = [
        Picture(
            "slices.png",
            "Dot plot of the mean IoU by " + ", ".join(_slice_names(findings)).lower(),
            "Mean IoU with 95 % intervals; in brackets the number of test pictures. Hollow dots and"
            f" an asterisk: fewer than {comparison.FEW_IMAGES} pictures, which say little.",
            narrow="slices.narrow.png",
        )
    ]
    for group, label in GROUPS.items():
        rows: list[list[Phrase]] = []
        for row in findings.slices.get(group, []):
            scores = [
                _with_interval(value, (low, high)) for value, low, high in row.scores.values()
            ]
            images = f"{row.images}{' *' if row.few else ''}"
            rows.append([slice_name(group, row), images, *scores, _number(row.baseline)])
        if rows:
            few = any(row.few for row in findings.slices[group])
            caption = "Mean IoU and its 95 % interval" + (
                f"; * fewer than {comparison.FEW_IMAGES} pictures" * few
            )
            names = map(_name, range(len(findings.results)), findings.results)
            table = Table([label, "Pictures", *names, "Baseline"], rows, f"{caption}.")
            blocks.append(Details(f"{label}s as a table", [table]) if len(rows) > 4 else table)
    return [Section("Species, sizes and breeds", blocks)]


def slice_name(group: str, row: SliceRow) -> str:
    """What people call a slice; of a size, with the shares that its pets have of the picture."""
    if group == "pet_size":
        low, high = (round(100 * share) for share in row.pet_shares)
        return f"{row.name}, {low}{NONE}{high} % of picture"
    return row.name.replace("_", " ")


def _slice_names(findings: Findings) -> list[str]:
    return [label for group, label in GROUPS.items() if group in findings.slices]


def _extremes(findings: Findings) -> Section:
    rows: list[list[Phrase]] = []
    for index, (name, kinds) in enumerate(findings.extremes.items()):
        table = findings.tables[name]
        scores = comparison.confusion.mean_iou(table.matrices)
        for kind, places in kinds.items():
            for number, place in enumerate(places, start=1):
                rows.append(
                    [
                        (_name(index, name), f", {kind} {number}"),
                        Code(table.file_names[place]),
                        _number(scores[place]),
                        table.breeds[place].replace("_", " ") or NONE,
                    ]
                )
    alt = "Rows of a test picture, its true mask and the prediction, with the mean IoU: the {} ones"
    return Section(
        "Worst and best pictures",
        [
            Paragraph("By the mean IoU of the single picture; from left to right the picture, its"
                      " true mask and the prediction."),
            Beside(
                [
                    Picture("worst.png", alt.format("worst"), "The worst of each network.",
                            on_page="worst.webp"),
                    Picture("best.png", alt.format("best"), "The best of each network.",
                            on_page="best.webp"),
                ]
            ),
            Details(
                "Files and scores",
                [Table(["Picture", "File", "Mean IoU", "Breed"], rows, "", words=True)],
            ),
        ],
    )  # fmt: skip


def _samples(findings: Findings) -> Section:
    sizes = findings.manifest.splits
    rows: list[list[Phrase]] = [
        [
            name,
            f"{split.examples:,}",
            *(f"{100 * share:.1f} %" for share in split.class_shares.values()),
        ]
        for name, split in sizes.items()
    ]
    classes = list(next(iter(sizes.values())).class_shares)
    return Section(
        "Training pictures",
        [
            Picture("samples.png", "Training pictures above their masks", on_page="samples.webp"),
            Table(["Split", "Pictures", *classes], rows, "Classes: share of the split's pixels."),
        ],
    )


def _exports(findings: Findings) -> Section:
    named = {name: _name(index, name) for index, name in enumerate(findings.exports)}
    latencies = {
        name: (findings.runs[f"export@{name}"] or {}).get("latency_ms", {}) for name in named
    }
    return exports_section(named, findings.exports, latencies)


def _run(findings: Findings) -> Section:
    manifest, runs = findings.manifest, findings.runs
    blocks: list[Block] = [
        Table(
            ["What", "Value"],
            [
                ["Dataset", (Code(manifest.dataset), " ", manifest.version)],
                ["Pictures", ", ".join(f"{s.examples:,} {n}" for n, s in manifest.splits.items())],
                ["Manifest, SHA-256", Code(findings.manifest_sha256)],
                *_machine([record for record in runs.values() if record]),
            ],
            "",
            words=True,
        ),
        Table(
            ["Stage", "Time"],
            [
                [Code(stage), _duration(record["seconds"]) if record else "not recorded"]
                for stage, record in runs.items()
            ],
            "Wall time, without starting Python."
            + " Not recorded: taken from DVC's cache." * (None in runs.values()),
        ),
    ]
    committed = findings.committed_params
    if committed is None:
        blocks.append(
            Paragraph(
                "Whether parameters differ from the committed ones is unknown: there is no Git"
                " commit to compare with."
            )
        )
    elif changes := _changes(findings.params, committed):
        blocks.append(
            Table(
                ["Parameter", "Committed", "This run"],
                [[Code(key), _parameter(old), _parameter(new)] for key, old, new in changes],
                "Parameters that differ from the committed params.yaml.",
                words=True,
            )
        )
    else:
        blocks.append(Paragraph("All parameters are those of the committed params.yaml."))
    blocks += [
        Paragraph("To repeat it:"),
        Listing(command(findings.params, committed)),
        Details(
            "All parameters",
            [
                Table(
                    ["Parameter", "Value"],
                    [[Code(key), _parameter(value)] for key, value in findings.params.items()],
                    "",
                    words=True,
                )
            ],
        ),
    ]
    return Section("What was run", blocks)


# --- phrases ---

_ABSENT = object()


def _changes(now: Mapping[str, Any], committed: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Key, committed value and value of the keys that differ; `_ABSENT` where there is none."""
    keys = [*now, *(key for key in committed if key not in now)]
    pairs = [(key, committed.get(key, _ABSENT), now.get(key, _ABSENT)) for key in keys]
    # 1 and true are equal in Python, and not in YAML.
    return [pair for pair in pairs if (type(pair[1]), pair[1]) != (type(pair[2]), pair[2])]


def _override(value: Any) -> str:
    """A value in the language of `dvc exp run -S`."""
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    if not isinstance(value, str):
        return _yaml(value)
    if re.fullmatch(r"[A-Za-z_][\w./-]*", value) and _yaml(value) == value:
        return value
    quoted = value.replace("'", r"\'")
    return f"'{quoted}'"


def _shell_word(text: str) -> str:
    # Within double quotes a shell leaves single quotes alone, but not these.
    if "'" in text and not re.search(r'["$`\\!]', text):
        return f'"{text}"'
    return shlex.quote(text)


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def _parameter(value: Any) -> Phrase:
    return "none" if value is _ABSENT else Code(_yaml(value))


def _machine(records: Sequence[Mapping[str, Any]]) -> list[list[Phrase]]:
    """What the stages ran on; more than one value if they did not run on the same."""

    def distinct(values: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value)) or "unknown"

    packages: dict[str, list[str]] = {}
    for record in records:
        for name, version in record["packages"].items():
            packages.setdefault(name, []).append(version)
    return [
        [
            "Versions",
            ", ".join(
                [
                    f"Python {distinct([record['python'] for record in records])}",
                    *(f"{name} {distinct(versions)}" for name, versions in packages.items()),
                ]
            ),
        ],
        ["System", distinct([record["system"] for record in records])],
        [
            "Processor",
            distinct([f"{r['processor']}, {_count(r['cores'], 'core')}" for r in records]),
        ],
        # No GPU is an answer too, but no record is none.
        ["GPU", distinct([", ".join(record["gpus"]) or "none" for record in records])],
    ]  # fmt: skip


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _name(index: int, network: str) -> Phrase:
    return (Swatch(network_color(index)), title(network))


def _images(findings: Findings) -> int:
    return next(iter(findings.results.values())).images


def _baseline(findings: Findings) -> comparison.Figures:
    return next(iter(findings.results.values())).baseline


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return f"{_number(low)} to {_number(high)}"


def _signed(value: float) -> str:
    if math.isnan(value):
        return NONE
    text = f"{abs(value):.3f}"
    # No sign before a zero.
    return text if float(text) == 0 else f"{MINUS if value < 0 else '+'}{text}"


def _with_interval(
    value: float | None, interval: comparison.Interval | None, *, strong: bool = False
) -> Phrase:
    text = _number(value)
    shown: Phrase = Strong(text) if strong and value is not None else text
    if interval is None or None in interval:
        return shown
    return (shown, " ", Small(_range(*interval)))


def _difference(difference: Difference | None) -> Phrase:
    if difference is None or math.isnan(difference.value):
        return NONE
    if math.isnan(difference.low):
        return _signed(difference.value)
    return (
        _signed(difference.value),
        " ",
        Small(f"{_signed(difference.low)} to {_signed(difference.high)}"),
    )
