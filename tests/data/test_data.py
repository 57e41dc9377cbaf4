"""Loading, splitting, and refusing what no classifier can be trained on."""

import gzip

import numpy as np
import pytest

from autoprune.data import from_arrays, load_data
from autoprune.data.fashion_mnist import read_idx
from autoprune.data.splits import DATASETS
from autoprune.errors import DataError, SettingsError, UnknownNameError
from autoprune.settings import DataSettings
from helpers.places import FASHION


def rows(split):
    return {image.tobytes() for image in split.images}


def test_digits_are_the_real_ones():
    data = load_data(DataSettings(reward_size=300))
    assert (len(data.train), len(data.reward), len(data.test)) == (1137, 300, 360)
    assert data.input_shape == (8, 8, 1)
    assert data.classes == 10
    assert data.train.images.min() == 0
    assert data.train.images.max() == 1
    # Stratified: every class is a tenth of the test split.
    assert set(np.bincount(data.test.labels)) <= {34, 35, 36, 37}


def test_splits_are_disjoint_and_together_everything():
    data = load_data(DataSettings(reward_size=0.25))
    train, reward, test = rows(data.train), rows(data.reward), rows(data.test)
    assert not train & reward
    assert not (train | reward) & test
    assert len(data.train) + len(data.reward) + len(data.test) == 1797


def test_fewer_training_images_are_among_more_and_leave_the_other_splits_alone():
    whole, some, few = (load_data(DataSettings(reward_size=300, train_size=size)) for size in (None, 500, 100))
    assert (len(some.train), len(few.train)) == (500, 100)
    assert rows(few.train) < rows(some.train) < rows(whole.train)
    for data in (some, few):
        np.testing.assert_array_equal(data.reward.images, whole.reward.images)
        np.testing.assert_array_equal(data.test.images, whole.test.images)
    assert len({data.fingerprint() for data in (whole, some, few)}) == 3


def test_the_seed_draws_the_training_images():
    first, again, other = (load_data(DataSettings(train_size=100, seed=seed)) for seed in (0, 0, 1))
    assert rows(first.train) == rows(again.train) != rows(other.train)


def test_more_training_images_than_there_are():
    assert len(load_data(DataSettings(reward_size=300, train_size=1137)).train) == 1137
    expected = "reward split of 300 images leaves 1137 of 1437 for training. Received: data.train_size=1138"
    with pytest.raises(DataError, match=expected):
        load_data(DataSettings(reward_size=300, train_size=1138))


@pytest.mark.parametrize("size", [0, -5])
def test_no_training_images(size):
    with pytest.raises(SettingsError, match=f"data.train_size must be 1 or more, or null. Received: {size}"):
        DataSettings(train_size=size)


def test_the_seed_moves_the_reward_split_and_never_the_test_split():
    first, again, other = (load_data(DataSettings(seed=seed)) for seed in (0, 0, 1))
    assert first.fingerprint() == again.fingerprint()
    assert rows(first.reward) != rows(other.reward)
    np.testing.assert_array_equal(first.test.images, other.test.images)


@pytest.mark.parametrize("size", [0, 1437, 5000, -3])
def test_impossible_reward_split_is_refused(size):
    with pytest.raises(DataError, match="needs at least 1 and fewer than all 1437"):
        load_data(DataSettings(reward_size=size))


def test_unknown_data_set_suggests_the_near_one():
    with pytest.raises(UnknownNameError, match="no data set 'digit'. Did you mean 'digits'"):
        load_data(DataSettings("digit"))


def test_every_data_set_has_a_config():
    from autoprune.options import config_groups

    assert set(config_groups()["data"]) == set(DATASETS)


# ------------------------------------------------------------------ Fashion-MNIST


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 50), ("t10k", 20)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path


def test_idx_files_are_read(idx_folder):
    data = load_data(DataSettings("fashion_mnist", dir=str(idx_folder), reward_size=10))
    assert (len(data.train), len(data.reward), len(data.test)) == (40, 10, 20)
    assert data.input_shape == (28, 28, 1)
    assert data.test.images.max() <= 1
    np.testing.assert_array_equal(data.test.labels, np.arange(20) % 10)


def test_missing_file_is_named(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="There is no file .*t10k-labels"):
        load_data(DataSettings("fashion_mnist", dir=str(idx_folder)))


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "not idx", "short", "short header"])
def test_damaged_idx_file_is_refused(tmp_path, damage):
    path = tmp_path / "x.gz"
    write_idx(path, np.zeros((4, 3, 3)))
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:20],
            "not gzip": b"hello",
            "not idx": gzip.compress(b"\x00\x00\x0d\x01abcd"),
            "short header": gzip.compress(b"\x00\x00\x08\x03abcd"),
            "short": gzip.compress(gzip.decompress(content)[:-5]),
        }[damage]
    )
    with pytest.raises(DataError, match="not a whole gzip file|not an IDX file|bytes follow|follow its header"):
        read_idx(path)


@pytest.mark.skipif(not FASHION.exists(), reason="the real data set is not here")
def test_real_fashion_mnist():
    data = load_data(DataSettings("fashion_mnist", dir=str(FASHION), reward_size=2000))
    assert (len(data.train), len(data.reward), len(data.test)) == (58000, 2000, 10000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10


# ------------------------------------------------------------------ npz


def images(count, shape=(6, 6, 1)):
    return np.random.default_rng(count).random((count, *shape)).astype("float32")


def npz(path, **arrays):
    np.savez(path, **arrays)
    return DataSettings("npz", path=str(path))


def test_npz_with_its_own_test_split(tmp_path):
    arrays = {"x_train": images(20), "y_train": np.arange(20) % 3, "x_test": images(8), "y_test": np.arange(8) % 3}
    data = load_data(npz(tmp_path / "d.npz", **arrays))
    assert (len(data.train), len(data.reward), len(data.test)) == (16, 4, 8)
    assert data.name == "d.npz"
    assert data.classes == 3


def test_npz_without_a_test_split_gets_one(tmp_path):
    data = load_data(npz(tmp_path / "d.npz", x=images(20), y=np.arange(20) % 3))
    assert (len(data.train) + len(data.reward), len(data.test)) == (16, 4)


def test_one_hot_and_column_labels_are_understood(tmp_path):
    labels = np.arange(20) % 3
    plain = load_data(npz(tmp_path / "a.npz", x=images(20), y=labels))
    one_hot = load_data(npz(tmp_path / "b.npz", x=images(20), y=np.eye(3)[labels]))
    column = load_data(npz(tmp_path / "c.npz", x=images(20), y=labels.reshape(-1, 1).astype(float)))
    np.testing.assert_array_equal(plain.test.labels, one_hot.test.labels)
    np.testing.assert_array_equal(plain.test.labels, column.test.labels)


def test_booleans_are_two_classes(tmp_path):
    labels = np.arange(20) % 3 == 0
    for given in (labels, labels.reshape(-1, 1)):
        data = load_data(npz(tmp_path / "b.npz", x_train=images(20), y_train=given, x_test=images(20), y_test=given))
        assert data.classes == 2
        np.testing.assert_array_equal(data.test.labels, labels)
    one_hot = from_arrays(images(20), np.eye(2)[labels.astype(int)] == 1, images(20), np.eye(2)[labels.astype(int)])
    np.testing.assert_array_equal(one_hot.test.labels, labels)


def test_a_class_without_images_has_its_column():
    """Whether the model has an output for it is asked of the columns, not of the labels that happen to be there."""
    y = np.eye(30)[np.arange(20) % 3]
    assert from_arrays(images(20), y, images(20), y).classes == 30
    with pytest.raises(DataError, match=r"the same columns. Received: shapes \(20, 30\) and \(20, 4\)"):
        from_arrays(images(20), y, images(20), y[:, :4])


LABELS = np.eye(4)[np.arange(20) % 4]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.random.default_rng(0).uniform(-1, 1, (20, 30)), r"\(16, 30\), of which 16 rows hold other values"),
        (LABELS * 96, r"hold other values \(96, 0, 0, 0\)"),
        (LABELS * 0.9 + 0.025, r"labels.argmax\(1\)"),
        (np.maximum(LABELS, LABELS[::-1]), "hold several: several labels per image"),
        (LABELS * (np.arange(20) != 3)[:, None], r"of which 1 rows hold none"),
        (np.where(LABELS == 1, np.nan, 0), "Of 16 labels 16 are not finite"),
        (np.where(np.arange(20) == 3, np.inf, 1.0), "Of 16 labels 1 are not finite"),
        (np.zeros((20, 6, 6)), r"shape \(\d+, 6, 6\), such as masks have.*task=segmentation"),
        (np.zeros((20, 36)), "rows hold none"),
        (np.array(["cat", "dog"] * 10), "np.unique"),
        (np.linspace(0, 1, 20), "Received: fractions, such as .*task=regression"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_a_way_out(tmp_path, labels, message):
    """By either door: a file, and arrays in memory."""
    with pytest.raises(DataError, match=message):
        from_arrays(images(16), labels[:16], images(4), labels[16:])
    parts = {"x_train": images(16), "y_train": labels[:16], "x_test": images(4), "y_test": labels[16:]}
    with pytest.raises(DataError, match=message):
        load_data(npz(tmp_path / "d.npz", **parts))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, r"holds the arrays \['a'\]. Expected arrays x_train"),
        ({"x": images(20), "y": np.arange(19)}, "20 images but 19 labels"),
        ({"x": images(3), "y": np.arange(3)}, "too few"),
        ({"x": images(20), "y": np.arange(20) / 7}, "Labels are class numbers"),
        ({"x": images(20), "y": np.arange(20) - 5}, "class numbers from 0. Received in 'npz': -5"),
        ({"x": images(20), "y": np.array(list("abcdefghijklmnopqrst"))}, "Labels are class numbers"),
        ({"x": np.array([["a"] * 4] * 20), "y": np.arange(20)}, "Images are numbers"),
        ({"x": np.full_like(images(20), np.inf), "y": np.arange(20)}, "values that are not finite"),
        (
            {"x_train": images(20), "y_train": np.arange(20), "x_test": images(8, (5, 5, 1)), "y_test": np.arange(8)},
            "differ in shape",
        ),
    ],
)
def test_npz_that_cannot_be_used_is_refused(tmp_path, arrays, message):
    with np.errstate(all="ignore"), pytest.raises(DataError, match=message):
        load_data(npz(tmp_path / "d.npz", **arrays))


def test_damage_anywhere_is_refused_or_harmless(tmp_path):
    """Any byte of an archive or IDX file may be wrong: the answer is data or a `DataError`, never a traceback."""
    archive, idx = tmp_path / "d.npz", tmp_path / "i.gz"
    np.savez_compressed(archive, x=images(8), y=np.arange(8) % 2)
    write_idx(idx, np.arange(36).reshape(4, 3, 3))
    refused = 0
    for path, read in (
        (archive, lambda: load_data(DataSettings("npz", path=str(archive)))),
        (idx, lambda: read_idx(idx)),
    ):
        content = path.read_bytes()
        for position in range(0, len(content), max(1, len(content) // 200)):
            path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
            try:
                read()
            except DataError:
                refused += 1
    assert refused > 100


def test_arrays_in_memory():
    data = from_arrays(images(20), np.eye(4)[np.arange(20) % 4], images(5), [[0], [1], [2], [3], [0]], reward_size=5)
    assert (len(data.train), len(data.reward), len(data.test), data.classes) == (15, 5, 5, 4)
    assert data.train.images.dtype == np.float32
    np.testing.assert_array_equal(data.test.labels, [0, 1, 2, 3, 0])
    with pytest.raises(DataError, match="Labels are class numbers"):
        from_arrays(images(20), np.linspace(0, 1, 20), images(5), np.arange(5))


def test_npz_that_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "d.npz"
    with pytest.raises(DataError, match="needs data.path"):
        load_data(DataSettings("npz"))
    with pytest.raises(DataError, match="There is no file"):
        load_data(DataSettings("npz", path=str(path)))
    np.savez(path, x=images(20), y=np.arange(20))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="is not an .npz archive"):
        load_data(DataSettings("npz", path=str(path)))
    np.savez(path, x=np.array([{"pickled": 1}], dtype=object), y=np.arange(1))
    with pytest.raises(DataError, match="is not an .npz file of plain arrays"):
        load_data(DataSettings("npz", path=str(path)))
