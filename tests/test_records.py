import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from stages.records.manifest import (
    BASELINE_FILE,
    EXAMPLES_FILE,
    Manifest,
    file_sha256,
    read_arrays,
    read_manifest,
    write_arrays,
)
from stages.records.tfrecords import Example, ShardWriter, batches, load_split, parse
from stages.stage import StageError


@pytest.mark.parametrize(("examples", "files"), [(1, 1), (4, 1), (5, 2)])
def test_shards_have_their_size_and_names_and_give_back_what_was_written(
    tmp_path: Path, examples: int, files: int
) -> None:
    rng = np.random.default_rng(examples)
    images = rng.integers(0, 256, (examples, 2, 2, 3), dtype=np.uint8)
    masks = rng.integers(0, 3, (examples, 2, 2), dtype=np.uint8)
    writer = ShardWriter(tmp_path, "train", 4)
    for number in range(examples):
        writer.write(Example(images[number], masks[number], f"\xe9 {number}", number, -1))
    split = writer.close()
    assert split.examples == examples
    assert [(shard.file, shard.examples) for shard in split.shards] == [
        (f"train-{index:05d}-of-{files:05d}.tfrecord", min(4, examples - 4 * index))
        for index in range(files)
    ]
    paths = [tmp_path / shard.file for shard in split.shards]
    assert sorted(tmp_path.iterdir()) == paths
    (stored,) = tf.data.TFRecordDataset([str(path) for path in paths]).batch(100)
    parsed = {key: values.numpy() for key, values in parse(stored, 2).items()}
    np.testing.assert_array_equal(parsed["image"], images)
    np.testing.assert_array_equal(parsed["mask"], masks)
    names = [f"\xe9 {number}".encode() for number in range(examples)]
    assert parsed["file_name"].tolist() == names
    assert parsed["label"].tolist() == list(range(examples))
    assert parsed["species"].tolist() == [-1] * examples


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the validation split would have no examples"):
        ShardWriter(tmp_path, "validation", 4).close()


def test_batches_hold_every_example_once_in_order(records: Path, manifest: Manifest) -> None:
    read = [batch["image"] for batch in batches(records, manifest, "test", 4)]
    assert [len(batch) for batch in read] == [4, 2]
    images, masks = load_split(records, manifest, "test")
    np.testing.assert_array_equal(images, np.concatenate(read))
    assert masks.shape == images.shape[:3]
    assert masks.max() == 2


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped bit", "foreign"])
@pytest.mark.parametrize("file", ["test-00001-of-00002.tfrecord", BASELINE_FILE, EXAMPLES_FILE])
def test_a_damaged_file_is_named_before_anything_is_read(
    records: Path, manifest: Manifest, tmp_path: Path, file: str, damage: str
) -> None:
    path = shutil.copytree(records, tmp_path / "records") / file
    whole, foreign = path.read_bytes(), EXAMPLES_FILE if file == BASELINE_FILE else BASELINE_FILE
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "flipped bit": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        "foreign": (records / foreign).read_bytes(),
    }
    path.unlink()
    if damage != "missing":
        path.write_bytes(damaged[damage])
    read = load_split if file.endswith(".tfrecord") else read_arrays
    split_or_file = "test" if file.endswith(".tfrecord") else file
    with pytest.raises(StageError, match=rf"{file} .*dvc repro -f prepare"):
        read(path.parent, manifest, split_or_file)


def test_archives_have_the_same_bytes_under_every_python(tmp_path: Path) -> None:
    """NumPy's own do not: that of 3.11.2 differs from that of 3.11.7."""
    write_arrays(tmp_path / "a.npz", {"x": np.arange(12, dtype=np.uint8).reshape(3, 4)})
    assert file_sha256(tmp_path / "a.npz") == (
        "64b5f59a0c2948df2bfc717a5826b0a8358269dc4790d1b746b3f625d00ce3da"
    )
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["x"], np.arange(12).reshape(3, 4))


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "", ".hidden", "a\nb", None])
def test_a_manifest_that_is_missing_or_names_files_elsewhere_is_refused(
    manifest: Manifest, tmp_path: Path, name: str | None
) -> None:
    if name is not None:
        content = manifest.model_dump()
        content["splits"]["train"]["shards"][0]["file"] = name
        (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StageError, match="is missing or not a manifest; `dvc repro -f prepare`"):
        read_manifest(tmp_path)
