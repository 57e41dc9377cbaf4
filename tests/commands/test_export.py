"""`python -m autoprune.export`."""

import json

import keras
import numpy as np
import pytest

import autoprune
from autoprune.models import zoo
from helpers.running import command, run_in
from helpers.saved_search import saved_search


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A run folder with a pruned network, and a network whose input size is open."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125)
    autoprune.apply_plan(model, autoprune.make_plan(model, 0.5, multiple_of=1))
    (folder / "run").mkdir()
    model.save(folder / "run/pruned.keras")
    image = keras.Input((None, None, 4))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, groups=2)(image))
    keras.Model(image, keras.layers.Dense(3)(x), name="open").save(folder / "open.keras")
    return folder


def test_a_run_in_every_format(files, tmp_path):
    formats = ["keras", "saved_model", "litert", "onnx"]
    folder, done = run_in(tmp_path, f"run={files}/run", f"formats=[{','.join(formats)}]", module="export")
    described = json.loads((folder / "export.json").read_text())
    assert described["model"] == f"{files}/run/pruned.keras"
    assert [row["format"] for row in described["formats"]] == formats
    for row in described["formats"]:
        assert (folder / row["path"]).exists()
        assert row["path"] in done.stdout.replace("\n", "")
        assert row["difference"] <= 1e-4 * row["largest"]
    assert "Assets written" not in done.stdout + done.stderr, "TensorFlow tells of its own files in between"
    images = np.random.default_rng(0).random((3, 8, 8, 1)).astype("float32")
    first, again = (keras.saving.load_model(path) for path in (files / "run/pruned.keras", folder / "model.keras"))
    np.testing.assert_array_equal(first.predict(images, verbose=0), again.predict(images, verbose=0))


def test_a_file_one_format_of_which_fails(files, tmp_path):
    """Grouped convolutions are not known to tf2onnx; the other format is there nevertheless."""
    arguments = [f"model.path={files}/open.keras", "formats=[onnx,litert]", "input_shape=[8,8,4]"]
    done = command(*arguments, module="export", cwd=tmp_path)
    assert done.returncode == 2
    assert "ExportError: ONNX does not have every operation of 'open'" in done.stderr
    (described,) = tmp_path.glob("outputs/export/*/*/export.json")
    failed, written = json.loads(described.read_text())["formats"]
    assert "ONNX does not have every operation" in failed["error"]
    assert (described.parent / written["path"]).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run must be given, or model.path=FILE.keras: one of the two. Received: neither"),
        (["run=a", "model.path=b.keras"], "one of the two. Received: both"),
        (["run=nowhere"], "ModelError: A run folder holds finetuned.keras or pruned.keras. 'nowhere' is no folder"),
        (["model.path=nowhere.keras"], "There is no file 'nowhere.keras'"),
        (["model=vgg16"], "model must be one file: model.path=FILE.keras. Received: vgg16"),
        (["model.path=FILES/open.keras"], "leaves its input size open: (None, None, 4)"),
        (["model.path=FILES/open.keras", "formats=[tflite]"], "There is no format 'tflite'. Did you mean 'litert'"),
        (["format=[onnx]"], "There is no option 'format'. Did you mean formats"),
    ],
)
def test_bad_input_gets_a_clear_error(files, tmp_path, arguments, message):
    done = command(*(a.replace("FILES", str(files)) for a in arguments), module="export", cwd=tmp_path)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert message in said
    assert "Traceback" not in said


def test_the_page_of_the_run_tells_of_its_exports(tmp_path):
    run = saved_search(tmp_path / "run")
    zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125).save(run.pruned)
    assert command(f"run={run.path}", module="report", cwd=tmp_path).returncode == 0
    assert "Exports" not in run.report.read_text()
    for name in ("keras", "litert"):
        (tmp_path / name).mkdir()
        run_in(tmp_path / name, f"run={run.path}", f"formats=[{name}]", module="export")
    page = run.report.read_text()
    exported = page.split('<section id="exports"')[1].split("</section>")[0]
    for words in ("Exports", ">keras</th>", ">litert</th>", "model.keras"):
        assert words in exported
