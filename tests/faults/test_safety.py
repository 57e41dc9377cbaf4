"""What comes from strangers runs nothing and writes nowhere, and nobody is called who was not asked for."""

import os
import subprocess
import sys
import textwrap
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from autoprune.data import load_data
from autoprune.errors import DataError, ModelError
from autoprune.models import zoo
from autoprune.models.files import load_model, save_model
from autoprune.settings import DataSettings
from helpers.small_search import SMALL, found_by
from helpers.tracked import tracked_in


@pytest.mark.parametrize("name", ["../outside", "assets/../../outside", "/tmp/autoprune-test-outside"])
def test_an_archive_with_a_path_outside_writes_nothing_there(tmp_path, name):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    save_model(zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125), inside / "model.keras")
    with zipfile.ZipFile(inside / "model.keras", "a") as archive:
        archive.writestr(name, "written by a stranger")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModelError, match="holds a path that leads out of it.*Do not use it"):
        load_model(inside / "model.keras")
    assert sorted(tmp_path.rglob("*")) == before
    assert not os.path.exists("/tmp/autoprune-test-outside")


def test_a_strangers_function_is_not_run(tmp_path):
    """The names say what would have been there, had it run."""
    mark = tmp_path / "run"
    image = keras.Input((8, 8, 1))
    code = layers.Lambda(lambda x, path=str(mark): (open(path, "w").close(), x)[1])
    keras.Model(image, code(image)).save(tmp_path / "model.keras")
    mark.unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"holds code: the function of its Lambda layer .*model\.safe_mode=false"):
        load_model(tmp_path / "model.keras")
    assert not mark.exists()


def test_pickled_arrays_are_not_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    trap = np.empty(2, object)
    trap[:] = [Trap(), Trap()]
    np.savez(tmp_path / "my.npz", x=trap, y=np.arange(2))
    with pytest.raises(DataError, match="is not an .npz file of plain arrays"):
        load_data(DataSettings("npz", path=str(tmp_path / "my.npz")))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def called(tmp_path, monkeypatch):
    """A file in which every process from here on notes the addresses that it connects to, or asks for."""
    noted, place = tmp_path / "called", tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import socket, sys

            def watch(event, arguments):
                local = event == "socket.connect" and arguments[0].family == socket.AF_UNIX
                if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname") and not local:
                    with open({str(noted)!r}, "a") as file:
                        file.write(f"{{sys.argv}} {{event}} {{arguments}}\\n")

            sys.addaudithook(watch)
        """)
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]))
    calling = [sys.executable, "-c", "import socket; socket.getaddrinfo('localhost', 80)"]
    subprocess.run(calling, check=True)
    assert "localhost" in noted.read_text(), "it would be noted"
    noted.unlink()
    return noted


@pytest.mark.slow
@pytest.mark.subprocess
def test_trackers_call_nobody_who_was_not_asked_for(called, tmp_path, monkeypatch):
    """Where they take their user for one: MLflow tells its makers nothing from a test, or where CI is set."""
    for name in ("CI", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"):
        monkeypatch.delenv(name, raising=False)
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        from autoprune.pipeline.tracking import track
        from autoprune.reporting.run_folder import RunFolder
        from autoprune.reporting.tracking import Curve
        from autoprune.settings import SearchSettings, TrackingSettings

        folder = RunFolder(Path(sys.argv[1]))
        with track(SearchSettings(tracking=TrackingSettings(["mlflow", "wandb"])), folder, "search"):
            folder.trackers.add(Curve("search", "rl"), 1, {"score": 0.5})
            folder.report.write_text("a page")
    """)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = tracked_in(tmp_path)
    for tracked in (found["mlflow"], found["wandb"]):
        assert tracked["figures"]["search/rl/score"] == [[1, 0.5]]
        assert tracked["files"] == ["report.html"]
    # What serves W&B is no Python: it says by itself that it is offline, and is told to report nothing.
    assert not called.exists(), called.read_text()


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_search_calls_nobody_and_takes_no_clock_at_its_word(called, whole, tmp_path, count):
    """Nor does a child of it; at every look the clock is off by months."""
    with open(tmp_path / "site" / "sitecustomize.py", "a") as file:
        file.write("import random, time\nreal, chance = time.time, random.Random(0)\n")
        file.write("time.time = lambda: real() + chance.uniform(-3e7, 3e7)\n")
    expected, _, costs = whole
    options = (*SMALL, "workers=2", f"target.cache={costs}", f"hydra.run.dir={tmp_path / 'run'}")
    search = [sys.executable, "-m", "autoprune.search", *options]
    done = subprocess.run(search, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found_by(tmp_path / "run") == expected
    assert not called.exists(), called.read_text()
    count("a clock that jumps")
