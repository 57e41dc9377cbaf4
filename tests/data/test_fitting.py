"""Images become what a model takes: size, channels, values."""

import keras
import numpy as np
import pytest

from autoprune.data import LazyImages, load_data
from autoprune.data.pixels import with_channels
from autoprune.errors import DataError, SettingsError
from autoprune.settings import DataSettings, ModelSettings
from helpers.image_files import write_digits

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype("float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_digits(root / "train", range(60))
    write_digits(root / "test", range(60, 120))
    return str(root)


def test_data_for_a_model_that_takes_anything_stay_arrays():
    for model in (None, ModelSettings(), ModelSettings("vgg16"), ModelSettings("file", path="not_read.keras")):
        data = load_data(DataSettings(), model)
        assert isinstance(data.train.images, np.ndarray)
        assert data.input_shape == (8, 8, 1)
        assert data.fingerprint() == load_data(DataSettings()).fingerprint()


def test_grey_digits_for_an_application():
    """As Keras prepares them: pixels from 0 to 255, resized, grey in all colours, the network's own values."""
    data = load_data(DataSettings(), ModelSettings("ResNet50", input_shape=[32, 24, 3]))
    plain = load_data(DataSettings())
    assert data.input_shape == (32, 24, 3)
    assert isinstance(data.train.images, LazyImages)
    pixels = np.repeat(plain.test.images[:5] * 255, 3, axis=-1)
    resized = keras.ops.convert_to_numpy(keras.ops.image.resize(pixels, (32, 24), antialias=False))
    expected = keras.applications.resnet.preprocess_input(resized.copy())
    np.testing.assert_allclose(data.test.images[:5], expected, atol=1e-3)
    np.testing.assert_array_equal(data.test.labels, plain.test.labels)
    assert load_data(DataSettings(), ModelSettings("ResNet50")).input_shape == (224, 224, 3)
    assert load_data(DataSettings(), ModelSettings("InceptionV3")).input_shape == (299, 299, 3)


def test_a_folder_takes_the_size_of_the_model(folder, tmp_path):
    def shape(model, **options):
        return load_data(DataSettings("image_folder", dir=folder, **options), model).input_shape

    image = keras.Input((12, 10, 3))
    keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image))).save(tmp_path / "m.keras")
    image = keras.Input((None, None, 1))
    keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(image))).save(
        tmp_path / "any.keras"
    )
    fixed, free = (ModelSettings("file", path=str(tmp_path / name)) for name in ("m.keras", "any.keras"))
    assert shape(fixed) == (12, 10, 3)
    assert shape(free, image_size=[9, 8]) == (9, 8, 1)
    assert shape(ModelSettings("plain_cnn", input_shape=[9, 9, 1])) == (9, 9, 1)
    assert shape(ModelSettings("plain_cnn"), image_size=[9, 9]) == (9, 9, 3)
    assert shape(ModelSettings("EfficientNetB1")) == (240, 240, 3)
    assert shape(ModelSettings("ResNet50"), image_size=[64, 64]) == (64, 64, 3)
    for model in (free, ModelSettings("plain_cnn"), None):
        with pytest.raises(DataError, match="images of 'image_folder' need a size"):
            shape(model)


@pytest.mark.parametrize("mode", ["tf", "caffe", "torch"])
def test_preprocessing_is_that_of_keras(folder, mode):
    def read(way):
        return load_data(DataSettings("image_folder", dir=folder, image_size=[8, 8], preprocessing=way)).test.images[:]

    pixels = read("none")
    assert pixels.max() == 240
    expected = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), data_format="channels_last", mode=mode)
    np.testing.assert_array_equal(read(mode), expected)
    np.testing.assert_array_equal(read("unit"), pixels / np.float32(255))
    np.testing.assert_array_equal(read("auto"), read("unit"))


@pytest.mark.parametrize(
    ("name", "module"), [("ResNet50", "resnet"), ("MobileNetV3Small", "mobilenet_v3"), ("NASNetMobile", "nasnet")]
)
def test_preprocessing_of_an_application_by_name_or_by_model(folder, name, module):
    options = {"dir": folder, "image_size": [8, 8]}
    pixels = load_data(DataSettings("image_folder", **options, preprocessing="none")).test.images[:]
    named = load_data(DataSettings("image_folder", **options, preprocessing=name)).test.images[:]
    expected = getattr(keras.applications, module).preprocess_input(pixels, data_format="channels_last")
    np.testing.assert_array_equal(named, expected)
    np.testing.assert_array_equal(
        load_data(DataSettings("image_folder", **options), ModelSettings(name)).test.images[:], named
    )


def test_every_application_has_its_preprocessing_and_size():
    from autoprune.models import applications

    assert len(applications.names()) > 35
    for name in applications.names():
        images = applications.preprocess_input(name)(np.full((1, 2, 2, 3), 255, "float32"))
        assert 0.9 < images.max() <= 255
        assert applications.input_shape(name)[0] >= 224


def test_arrays_of_ones_own_are_left_alone_unless_asked(tmp_path):
    images = np.random.default_rng(0).normal(size=(20, 6, 6, 1)).astype("float32")
    np.savez(tmp_path / "d.npz", x=images, y=np.arange(20) % 3)
    path = str(tmp_path / "d.npz")
    plain = load_data(DataSettings("npz", path=path))
    for_application = load_data(DataSettings("npz", path=path), ModelSettings("ResNet50"))
    assert plain.fingerprint() == for_application.fingerprint()
    larger = load_data(DataSettings("npz", path=path, image_size=[12, 12, 3]))
    assert larger.input_shape == (12, 12, 3)
    np.testing.assert_allclose(larger.test.images[:].mean(), plain.test.images.mean(), atol=0.05)
    scaled = load_data(DataSettings("npz", path=path, preprocessing="unit"))
    np.testing.assert_allclose(scaled.test.images[:], plain.test.images / 255, atol=1e-6)


def test_images_without_height_and_width_are_not_resized(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 6)), y=np.arange(20) % 3)
    assert load_data(DataSettings("npz", path=str(tmp_path / "d.npz"))).input_shape == (6,)
    with pytest.raises(DataError, match=r"are for images of shape .*have shape \(6,\)"):
        load_data(DataSettings("npz", path=str(tmp_path / "d.npz"), image_size=[8, 8]))


def test_channels():
    grey = with_channels(PIXELS[0], 1)
    assert grey.shape == (4, 5, 1)
    np.testing.assert_allclose(grey[0, 0, 0], PIXELS[0, 0, 0] @ [0.299, 0.587, 0.114], rtol=1e-6)
    np.testing.assert_array_equal(with_channels(grey, 3), np.concatenate([grey] * 3, -1))
    np.testing.assert_array_equal(with_channels(np.concatenate([PIXELS[0], grey], -1), 3), PIXELS[0])
    with pytest.raises(DataError, match="An image of 5 channels cannot become one of 3"):
        with_channels(np.zeros((2, 2, 5), "float32"), 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preprocessing": "caffee"}, SettingsError, "no data.preprocessing 'caffee'. Did you mean 'caffe'"),
        ({"preprocessing": "torch"}, DataError, "preprocessing=torch is for colour.*data.image_size=.8,8,3."),
        ({"image_size": [8, 8, 4]}, DataError, "An image of 1 channels cannot become one of 4"),
    ],
)
def test_what_cannot_be_done_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        load_data(DataSettings(**options)).test.images[:1]


@pytest.mark.parametrize("size", [[8], [8, 8, 3, 1], [0, 8], []])
def test_sizes_that_are_none(size):
    with pytest.raises(SettingsError, match="data.image_size must be .height,width., or with channels"):
        DataSettings(image_size=size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "digits", "dir": "x"},
            "data.dir must be given with data=fashion_mnist or cifar10 or .*digits does not",
        ),
        ({"name": "image_folder", "path": "x"}, "data.path must be given with data=npz"),
        ({"name": "cifar10", "dataset": "x"}, "data.dataset must be given with data=tfds"),
    ],
)
def test_options_that_are_not_read(options, message):
    with pytest.raises(SettingsError, match=message):
        DataSettings(**options)


def test_labels_beyond_the_classes_of_a_data_set(monkeypatch):
    images = np.zeros((20, 28, 28), np.uint8)
    answer = ((images, np.arange(20)), (images, np.arange(20) % 10))
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: answer)
    with pytest.raises(DataError, match="'fashion_mnist' has 10 classes, numbered from 0. Received the label 19"):
        load_data(DataSettings("fashion_mnist"))
