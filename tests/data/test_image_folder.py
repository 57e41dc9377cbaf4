"""Folders of image files: what is read, when, how it compares with Keras, and what is refused."""

import keras
import numpy as np
import pytest
from PIL import Image

from autoprune.cost import open_cost_model
from autoprune.data import LazyImages, from_arrays, load_data
from autoprune.data.image_folder import FileSource, decode_image
from autoprune.data.pixels import Preparation, resize
from autoprune.errors import DataError
from autoprune.evaluation import Evaluator, Journal
from autoprune.models import zoo
from autoprune.planning import Planner, make_plan
from autoprune.planning.calibration import sample_calibration
from autoprune.records import Target
from autoprune.settings import Constraints, DataSettings, EvaluationSettings
from helpers.image_files import digit_pixels, in_order_of_files, write_digits
from helpers.plans import evaluate_at

TRAIN, TEST = range(200), range(200, 260)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """200 training and 60 test digits."""
    root = tmp_path_factory.mktemp("images")
    write_digits(root / "train", TRAIN)
    write_digits(root / "test", TEST)
    return root


@pytest.fixture
def numbers_read(monkeypatch):
    """The numbers of the images that were read, and how many each reading was asked for."""
    read, asked = [], []
    pixels, scale = FileSource.pixels, Preparation.scale
    monkeypatch.setattr(FileSource, "pixels", lambda self, number: (read.append(number), pixels(self, number))[1])
    monkeypatch.setattr(Preparation, "scale", lambda self, batch: (asked.append(len(batch)), scale(self, batch))[1])
    return read, asked


def settings(folder, size=(8, 8, 1), **options):
    return DataSettings("image_folder", dir=str(folder), image_size=list(size), **{"reward_size": 50, **options})


def in_memory(**options):
    return from_arrays(*in_order_of_files(TRAIN), *in_order_of_files(TEST), **{"reward_size": 50, **options})


def test_images_and_splits_are_those_of_the_same_images_in_memory(folder):
    lazy, whole = load_data(settings(folder)), in_memory()
    assert (lazy.name, lazy.classes, lazy.input_shape) == (folder.name, 10, (8, 8, 1))
    for name in ("train", "reward", "test"):
        ours, theirs = getattr(lazy, name), getattr(whole, name)
        np.testing.assert_array_equal(ours.images[:], theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert ours.images.shape == theirs.images.shape
        assert ours.images.dtype == theirs.images.dtype == ours.images[:1].dtype


def test_splitting_reads_no_image_and_an_index_reads_what_it_names(folder, numbers_read):
    read, asked = numbers_read
    data = load_data(settings(folder, train_size=100))
    data.fingerprint()
    few = data.train.part(slice(40)).head(30)
    assert (len(few), few.images.shape) == (30, (30, 8, 8, 1))
    assert not read
    images = data.train.images
    one, some, again = images[3], images[[3, 99, 3]], images[2:6]
    assert (one.shape, some.shape, again.shape) == ((8, 8, 1), (3, 8, 8, 1), (4, 8, 8, 1))
    np.testing.assert_array_equal(one, some[0])
    np.testing.assert_array_equal(one, some[2])
    np.testing.assert_array_equal(one, again[1])
    assert asked == [1, 3, 4]
    assert len(read) == 8
    assert images[:0].shape == (0, 8, 8, 1)
    with pytest.raises(IndexError):
        images[100]


def test_images_do_not_become_one_array_by_mistake(folder, numbers_read):
    images = load_data(settings(folder)).train.images
    for mistake in (np.asarray, np.array, np.mean):
        with pytest.raises(TypeError, match="150 images are read as they are needed"):
            mistake(images)
    with pytest.raises((TypeError, ValueError)):
        keras.ops.convert_to_tensor(images)
    assert not numbers_read[0]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125)


@pytest.mark.parametrize("recovery", ["none", "reconstruction", "tuning"])
def test_a_plan_scores_as_with_the_same_images_in_memory(
    folder, model, recovery, compiler, numbers_read, tmp_path, caplog
):
    """Scored batch by batch: no more than a batch of images is ever asked for at once."""
    caplog.set_level("INFO")
    how = EvaluationSettings(
        batch_size=16, recalibration_images=40, recovery=recovery, recovery_images=32, tuning_steps=2, score="agreement"
    )
    found = {}
    for name, data in {"lazy": load_data(settings(folder)), "whole": in_memory()}.items():
        cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=compiler)
        journal = Journal(tmp_path / f"{name}.sqlite", {})
        planner = Planner(model, constraints=Constraints(multiple_of=1))
        evaluator = Evaluator(model, planner, data, cost_model=cost_model, journal=journal, settings=how)
        found[name] = [evaluate_at(evaluator, ratio) for ratio in (1.0, 0.5)]
        journal.close()
    assert not any(evaluation.failed for evaluation in found["lazy"])
    assert "eagerly" not in caplog.text
    for ours, theirs in zip(found["lazy"], found["whole"], strict=True):
        assert (ours.accuracy, ours.score) == (theirs.accuracy, theirs.score)
    read, asked = numbers_read
    assert max(asked) <= 32 if recovery != "none" else max(asked) == 16
    assert len(set(read)) < 200


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_importance_is_that_of_the_same_images_in_memory(folder, model, importance, numbers_read):
    plans = [
        make_plan(model, 0.5, importance=importance, data=sample_calibration(data.train, 64, seed=2))
        for data in (load_data(settings(folder)), in_memory())
    ]
    assert plans[0].kept.keys() == plans[1].kept.keys()
    for name, kept in plans[0].kept.items():
        np.testing.assert_array_equal(kept, plans[1].kept[name])
    read, asked = numbers_read
    assert len(set(read)) == 64
    assert max(asked) == 32


def test_fewer_images_than_a_batch_are_scored(tmp_path, model, compiler):
    write_digits(tmp_path / "train", range(20))
    write_digits(tmp_path / "test", range(20, 40))
    data = load_data(settings(tmp_path, reward_size=5))
    cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=compiler)
    journal = Journal(tmp_path / "j.sqlite", {})
    evaluator = Evaluator(model, Planner(model), data, cost_model=cost_model, journal=journal)
    assert 0 <= evaluate_at(evaluator, 0.5).accuracy <= 1
    journal.close()


def test_fingerprint_tells_what_images_these_are_without_reading_them(folder, tmp_path, numbers_read):
    def of(root=folder, **options):
        return load_data(settings(root, **options)).fingerprint()

    first = of()
    assert first == of()
    others = [of(seed=1), of(size=(9, 8, 1)), of(train_size=20), of(preprocessing="tf"), of(crop_to_aspect_ratio=True)]
    # The same files elsewhere are the same data; one more byte in one of them is not.
    write_digits(tmp_path / "train", TRAIN)
    write_digits(tmp_path / "test", TEST)
    assert of(tmp_path) == first
    with next((tmp_path / "test/digit3").iterdir()).open("ab") as file:
        file.write(b"\0")
    assert len({first, *others, of(tmp_path)}) == 7
    assert not numbers_read[0]


def test_without_a_test_folder_a_fixed_fifth_is_set_aside(tmp_path):
    write_digits(tmp_path, range(100))
    first, other = (load_data(settings(tmp_path, reward_size=10, seed=seed)) for seed in (0, 1))
    assert (len(first.train), len(first.reward), len(first.test), first.classes) == (70, 10, 20, 10)
    np.testing.assert_array_equal(first.test.images[:], other.test.images[:])
    pixels, labels = digit_pixels()
    known = {(pixels[row] / np.float32(255)).astype("float32").tobytes(): labels[row] for row in range(100)}
    for split in (first.train, first.reward, first.test):
        assert [known[image.tobytes()] for image in split.images[:]] == split.labels.tolist()


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_names_of_the_test_folder(tmp_path, name):
    write_digits(tmp_path / "train", range(30))
    write_digits(tmp_path / name, range(30, 60))
    assert len(load_data(settings(tmp_path, reward_size=5)).test) == 30


# ------------------------------------------------------------------ decoding and resizing


@pytest.fixture
def photos(tmp_path):
    """Colour images of several sizes in two classes, PNG: every reader decodes them to the same pixels."""
    generator = np.random.default_rng(0)
    for number, size in enumerate([(40, 30), (31, 57), (16, 16), (9, 70), (64, 48), (10, 10)]):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return tmp_path


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras's reader needs TensorFlow")
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_those_of_keras(photos, crop, channels):
    expected, labels = [], []
    for images, found in keras.utils.image_dataset_from_directory(
        photos,
        image_size=(16, 20),
        crop_to_aspect_ratio=crop,
        color_mode="rgb" if channels == 3 else "grayscale",
        shuffle=False,
        verbose=False,
    ):
        expected.append(images.numpy())
        labels.append(found.numpy())
    names = [f"{'ab'[number % 2]}/{number}.png" for number in (0, 2, 4, 1, 3, 5)]
    images = LazyImages(FileSource(photos, names, [0] * 6), Preparation((16, 20, channels), crop, "none"))[:]
    # Grey is rounded by either reader in a way of its own.
    np.testing.assert_allclose(images, np.concatenate(expected), atol=1e-3 if channels == 3 else 1.5)
    np.testing.assert_array_equal(np.concatenate(labels), [0, 0, 0, 1, 1, 1])


def test_resizing_is_bilinear_between_centres():
    ramp = np.arange(4, dtype=np.float32).reshape(1, 4, 1)
    np.testing.assert_allclose(resize(ramp, (1, 2))[0, :, 0], [0.5, 2.5])
    np.testing.assert_allclose(resize(ramp, (3, 8))[2, :, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert resize(ramp, (1, 4)) is ramp


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 200, [200]),
        ("1", 1, [255]),
        ("LA", (90, 128), [90]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 0), [1, 2, 3]),
        ("I;16", 65535, [255]),
    ],
)
def test_kinds_of_png(tmp_path, mode, value, expected):
    Image.new(mode, (3, 2), value).save(tmp_path / "x.png")
    found = decode_image(tmp_path / "x.png", "x")
    assert found.shape == (2, 3, len(expected))
    np.testing.assert_array_equal(found[1, 2], expected)


def test_palettes_jpeg_and_other_kinds_of_files(tmp_path):
    picture = Image.new("RGB", (6, 4), (255, 0, 0))
    for suffix in ("jpg", "JPEG", "bmp", "gif", "png"):
        (picture.convert("P") if suffix == "gif" else picture).save(tmp_path / f"x.{suffix}")
        np.testing.assert_allclose(decode_image(tmp_path / f"x.{suffix}", "x")[0, 0], [255, 0, 0], atol=3)


# ------------------------------------------------------------------ what is refused


def damaged(folder, what):
    write_digits(folder / "train", range(60))
    write_digits(folder / "test", range(60, 120))
    some = next((folder / "train/digit4").glob("*.png"))
    if what == "empty file":
        some.write_bytes(b"")
    elif what == "empty class":
        for path in (folder / "train/digit4").iterdir():
            path.unlink()
        (folder / "train/digit4/notes.txt").write_text("nothing here")
    elif what == "other classes":
        (folder / "test/digit4").rename(folder / "test/four")
    elif what == "no test":
        (folder / "test").rename(folder / "spare")
    elif what == "no train":
        (folder / "train").rename(folder / "spare")
    return folder


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("empty file", "The image '.*train/digit4/.*png' is empty"),
        ("empty class", "The class folder '.*train/digit4' holds no images"),
        ("other classes", "hold different classes: only one of them has digit4, four"),
        ("no test", "has train, but not test or val. Expected train/CLASS"),
        ("no train", "has test, but not train. Expected train/CLASS"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, what, message):
    with pytest.raises(DataError, match=message):
        load_data(settings(damaged(tmp_path, what)))


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="needs data.dir=FOLDER. Expected train/CLASS"):
        load_data(DataSettings("image_folder"))
    with pytest.raises(DataError, match="There is no folder '.*nowhere'"):
        load_data(settings(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds 0 class folders; 2 or more are needed"):
        load_data(settings(tmp_path))
    write_digits(tmp_path, range(60), classes=[1])
    with pytest.raises(DataError, match="holds 1 class folders"):
        load_data(settings(tmp_path))
    (tmp_path / "digit2").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "digit2/x.png")
    for path in list((tmp_path / "digit1").iterdir())[3:]:
        path.unlink()
    with pytest.raises(DataError, match="holds 4 images: too few to set a test split aside"):
        load_data(settings(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "text", "gone"])
def test_an_unreadable_image_is_named_when_it_is_read(tmp_path, damage):
    write_digits(tmp_path / "train", range(60))
    write_digits(tmp_path / "test", range(60, 120))
    some = next((tmp_path / "train/digit4").glob("*.png"))
    if damage == "truncated":
        some.write_bytes(some.read_bytes()[:70])
    elif damage == "text":
        some.write_text("no image")
    data = load_data(settings(tmp_path, reward_size=1))
    if damage == "gone":
        some.unlink()
    with pytest.raises(DataError, match=f"The image '.*{some.name}' cannot be read"):
        [split.images[:] for split in (data.train, data.reward)]


def test_every_damaged_byte_is_refused_or_harmless(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)).save(path)
    content, refused = path.read_bytes(), 0
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            decode_image(path, "x")
        except DataError:
            refused += 1
    assert refused > 30


def test_a_size_is_needed(folder):
    with pytest.raises(DataError, match="need a size.*Give data.image_size="):
        load_data(DataSettings("image_folder", dir=str(folder)))
