import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from stages.parallel import in_parallel
from stages.params import Params
from stages.prepare import __main__ as prepare
from stages.prepare.__main__ import (
    _write_arrays,
    in_validation,
    resized,
    train_image_size,
    write_records,
)
from stages.prepare.source import RawExample, StoredExample
from stages.records.manifest import Manifest, file_sha256, read_manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_records_are_byte_identical_on_every_run(
    params: Params, records: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    write_records(params, again, tmp_path)
    assert _digests(again) == _digests(records)


def test_the_manifest_tells_what_was_written(manifest: Manifest, records: Path) -> None:
    assert (manifest.dataset, manifest.image_size) == ("synthetic_pets", 128)
    assert manifest.class_names == ["pet", "background", "border"]
    assert manifest.species_names == ["Cat", "Dog"]
    sizes = {name: split.examples for name, split in manifest.splits.items()}
    assert sizes["train"] + sizes["validation"] == 12
    assert sizes["test"] == 6
    assert sizes["validation"] > 0
    listed: dict[str, str] = {}
    for name, split in manifest.splits.items():
        assert sum(shard.examples for shard in split.shards) == split.examples
        assert all(shard.examples <= 4 for shard in split.shards)
        listed |= {shard.file: shard.sha256 for shard in split.shards}
        _, masks = load_split(records, manifest, name)
        shares = np.bincount(masks.ravel(), minlength=3) / masks.size
        np.testing.assert_allclose(list(split.class_shares.values()), shares, atol=1e-6)
    files = _digests(records)
    for other in ("manifest.json", "examples.npz", "baseline.npy"):
        del files[other]
    assert listed == files


def test_examples_of_the_report_are_stored_pictures(manifest: Manifest, records: Path) -> None:
    examples = np.load(records / "examples.npz")
    images, masks = load_split(records, manifest, "test")
    assert len(examples["test_images"]) == 3
    # At even distances: the first, one in the middle and the last.
    np.testing.assert_array_equal(examples["test_images"], images[[0, 2, 5]])
    np.testing.assert_array_equal(examples["test_masks"], masks[[0, 2, 5]])
    assert examples["train_images"].shape == (3, 128, 128, 3)


def test_what_is_done_in_parallel_keeps_its_order_and_does_not_run_ahead() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number % 7 == 0 else 0)
        return number * number

    results = in_parallel(slow_at_first, numbers())
    assert [next(results) for _ in range(20)] == [number * number for number in range(20)]
    assert len(taken) <= 20 + 2 * (os.cpu_count() or 1) + 1


def test_what_goes_wrong_in_parallel_comes_up_after_the_results_before_it() -> None:
    def broken(number: int) -> int:
        if number == 5:
            raise StageError("five")
        return number

    results = in_parallel(broken, range(10))
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(StageError, match="five"):
        next(results)


@pytest.mark.parametrize(("scale", "size"), [(1.0, 128), (1.5, 192), (1.3, 166), (2.0, 256)])
def test_training_pictures_may_be_stored_larger_by_any_factor(
    params: Params, scale: float, size: int
) -> None:
    assert train_image_size(params.model_copy(update={"train_image_scale": scale})) == size


def test_only_the_training_pictures_have_a_size_of_their_own(
    params: Params, tmp_path: Path
) -> None:
    digests, manifests = {}, {}
    for size, train_size in ((32, 32), (32, 48), (48, 48)):
        sizes = {"image_size": size, "train_image_scale": train_size / size}
        folder = tmp_path / f"{size}-{train_size}"
        folder.mkdir()
        write_records(params.model_copy(update=sizes), folder, tmp_path)
        digests[size, train_size] = _digests(folder)
        manifests[size, train_size] = read_manifest(folder)
    manifest = manifests[32, 48]
    assert (manifest.image_size, manifest.train_image_size) == (32, 48)
    for split, size in (("train", 48), ("validation", 32), ("test", 32)):
        assert manifest.split_image_size(split) == size
        images, masks = load_split(tmp_path / "32-48", manifest, split)
        assert images.shape == (manifest.splits[split].examples, size, size, 3)
        assert masks.shape == images.shape[:3]
        assert manifest.splits[split] == manifests[size, size].splits[split]
    del digests[32, 48]["manifest.json"]
    for name, digest in digests[32, 48].items():
        same = (48, 48) if name.startswith("train") else (32, 32)
        assert digest == digests[same][name], name
    assert len(digests[32, 48]) > 4


def _raw(image: np.ndarray, trimap: np.ndarray) -> RawExample:
    return RawExample(Image.fromarray(image), Image.fromarray(trimap), "a", 0, 0)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    trimap=hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=300), elements=st.integers(1, 3)
    ),
    image_size=st.sampled_from([32, 64, 128]),
)
def test_masks_are_resized_like_tensorflows_nearest_neighbour(
    trimap: np.ndarray, image_size: int
) -> None:
    image = np.zeros((*trimap.shape, 3), np.uint8)
    mask = resized(_raw(image, trimap), image_size).mask
    size = (image_size, image_size)
    expected = tf.image.resize(trimap[:, :, None], size, "nearest")[:, :, 0].numpy() - 1
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= set(np.unique(trimap) - 1)
    # Where a pixel's centre falls on an edge between two, either of them is the nearest.
    assert np.mean(mask == expected) > 0.98 or trimap.size < 64**2


@pytest.mark.parametrize(("height", "width"), [(256, 256), (200, 333), (500, 375), (90, 60)])
def test_images_are_resized_like_tensorflows_antialiased_bilinear(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    trimap = np.ones((height, width), np.uint8)
    mine = resized(_raw(image, trimap), 128).image
    theirs = tf.image.resize(image, (128, 128), "bilinear", antialias=True).numpy()
    assert np.abs(mine - theirs).max() <= 1.01  # one step of rounding


@settings(deadline=None, derandomize=True)
@given(name=st.text(), small=st.floats(0.01, 0.99), large=st.floats(0.01, 0.99))
def test_a_larger_validation_share_holds_out_the_same_pictures_and_more(
    name: str, small: float, large: float
) -> None:
    small, large = sorted((small, large))
    assert in_validation(name, large) or not in_validation(name, small)


def test_the_validation_share_is_met() -> None:
    held_out = [in_validation(f"cat_{number}.jpg", 0.15) for number in range(20_000)]
    assert np.mean(held_out) == pytest.approx(0.15, abs=0.01)


def test_validation_pictures_never_come_from_the_test_split(
    params: Params, records: Path, manifest: Manifest
) -> None:
    names = {}
    for split in manifest.splits:
        files = [str(records / shard.file) for shard in manifest.splits[split].shards]
        names[split] = [
            tf.train.Example.FromString(record).features.feature["file_name"].bytes_list.value[0]
            for record in tf.data.TFRecordDataset(files).as_numpy_iterator()
        ]
    share = params.validation_share
    assert all(in_validation(name.decode(), share) for name in names["validation"])
    assert not any(in_validation(name.decode(), share) for name in names["train"])
    assert not set(names["test"]) & {*names["train"], *names["validation"]}


def test_an_interrupted_prepare_leaves_the_previous_records_as_they_were(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "load_params", lambda: params)
    prepare.main()
    before = _digests(tmp_path / "data" / "records")
    read_split = prepare.read_split

    def interrupted(*args: Any) -> Iterator[StoredExample]:
        yield from list(read_split(*args))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "read_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare.main()
    assert _digests(tmp_path / "data" / "records") == before
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["records"]
    monkeypatch.setattr(prepare, "read_split", read_split)
    prepare.main()
    assert read_manifest(tmp_path / "data" / "records").splits["test"].examples == 6


def test_an_empty_split_is_refused(params: Params, tmp_path: Path) -> None:
    nobody = params.model_copy(update={"validation_share": 1e-9})
    (tmp_path / "records").mkdir()
    with pytest.raises(StageError, match="the validation split would have no examples"):
        write_records(nobody, tmp_path / "records", tmp_path)


def test_the_examples_have_the_same_bytes_under_every_python(tmp_path: Path) -> None:
    """NumPy's own archives do not: that of 3.11.2 differs from that of 3.11.7."""
    _write_arrays(tmp_path / "a.npz", {"x": np.arange(12, dtype=np.uint8).reshape(3, 4)})
    assert file_sha256(tmp_path / "a.npz") == (
        "64b5f59a0c2948df2bfc717a5826b0a8358269dc4790d1b746b3f625d00ce3da"
    )
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["x"], np.arange(12).reshape(3, 4))
