"""What is remembered of compilations: under which keys, in which file, and for how long."""

import importlib
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import keras
import pytest
from hydra import compose, initialize_config_module
from keras import layers
from omegaconf import OmegaConf

import autoprune.options  # noqa: F401 - enters the defaults that `search` is composed of
from autoprune.cost import open_cost_model
from autoprune.cost.cache import CostCache, cache_key, open_cache
from autoprune.cost.compiler.cost_model import CompilerCostModel
from autoprune.errors import SettingsError
from autoprune.models.fingerprint import architecture_fingerprint, inference_fingerprint
from autoprune.planning import make_plan
from autoprune.records import Target
from autoprune.settings import TargetSettings, from_config
from autoprune.settings.places import user_cache_folder
from autoprune.surgery import apply_plan
from helpers.cached import PAGE, filled, healthy, result
from helpers.processes import WITHOUT_TENSORFLOW, started
from helpers.topologies import TOPOLOGIES, made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "costs.sqlite"


# ------------------------------------------------------------------ keys


def test_fingerprint_ignores_names_and_survives_a_file(tmp_path):
    model = made("squeeze_excite")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert architecture_fingerprint(loaded) == architecture_fingerprint(model)
    # Layers that were not named get other names the second time.
    assert architecture_fingerprint(made("squeeze_excite", seed=1)) == architecture_fingerprint(model)


@pytest.mark.parametrize("name", ["plain", "residual", "nested", "raw_operations", "squeeze_excite"])
def test_fingerprint_sees_every_width(name):
    model = made(name)
    before = architecture_fingerprint(model)
    plan = make_plan(model, 0.5, multiple_of=1)
    seen = {before}
    for group in plan.kept:
        other = made(name)
        apply_plan(other, make_plan(other, {group: 0.5}, multiple_of=1))
        seen.add(architecture_fingerprint(other))
    assert len(seen) == 1 + len(plan.kept)


def test_fingerprints_of_all_topologies_differ():
    assert len({architecture_fingerprint(made(name)) for name in TOPOLOGIES}) == len(TOPOLOGIES)


def classifier(name=None, rate=0.5, momentum=0.9, epsilon=1e-3, activation="relu", size=8, trained=(), **options):
    """Everything that Keras lets one set; `trained` is what it is compiled with."""
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(8, 3, name=name, activation=activation, **options)(layers.RandomFlip("horizontal", seed=1)(image))
    x = layers.BatchNormalization(momentum=momentum, epsilon=epsilon)(x)
    x = layers.TimeDistributed(layers.Dense(4, name=name and f"{name}_inner"))(layers.Dropout(rate)(x))
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)), name=name and f"{name}_model")
    if trained:
        model.compile(*trained)
    return model


def test_what_does_not_reach_the_compiler_is_not_in_its_key():
    unseen = [
        {"momentum": 0.99},
        {"rate": 0.1},
        {"name": "mine"},
        {"kernel_initializer": keras.initializers.HeNormal(seed=7)},
        {"kernel_regularizer": "l2", "activity_regularizer": "l1"},
        {"kernel_constraint": "non_neg", "trainable": False},
        {"trained": ("sgd", "mse")},
    ]
    assert len({inference_fingerprint(classifier(**options)) for options in ({}, *unseen)}) == 1


def test_what_reaches_the_compiler_is_in_its_key(path):
    seen = [
        {"epsilon": 1e-5},
        {"activation": "gelu"},
        {"size": 9},
        {"strides": 2},
        {"use_bias": False},
        {"rate": 0.0},  # Then there is no seed.
    ]
    assert len({inference_fingerprint(classifier(**options)) for options in ({}, *seen)}) == 1 + len(seen)
    with closing(CostCache(path)) as cache:
        targets = [Target(name, *rest) for name, *rest in (("tpu_v3",), ("tpu_v3", 8), ("tpu_v3", 8, "float32"))]
        models = [CompilerCostModel(target, cache) for target in (*targets, Target("tpu_v5e"))]
        keys = {model._key(classifier(), route) for model in models for route in ("keras", "tensorflow")}
        assert len(keys) == 8
        models[0]._versions = {**models[0]._versions, "libtpu": "another"}
        assert models[0]._key(classifier(), "keras") not in keys


def test_the_code_of_a_layer_of_ones_own_reaches_the_compiler(tmp_path, monkeypatch):
    """Under the same name, after it was changed."""
    found = []
    for number, power in enumerate((2, 3, 2)):
        (folder := tmp_path / str(number)).mkdir()
        code = f"import keras\nclass Power(keras.layers.Layer):\n    def call(self, x):\n        return x**{power}\n"
        (folder / "layers_of_a_cache_test.py").write_text(code)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "layers_of_a_cache_test", raising=False)
        image = keras.Input((4,))
        layer = importlib.import_module("layers_of_a_cache_test").Power()
        found.append(inference_fingerprint(keras.Model(image, layer(image))))
    assert found[0] == found[2] != found[1]


def test_keys_depend_on_every_part():
    assert cache_key(a=1, b=2) == cache_key(b=2, a=1)
    assert len({cache_key(a=1), cache_key(a=2), cache_key(b=1)}) == 3


def test_same_model_is_compiled_once_and_another_width_anew(tmp_path, path, compiler):
    """Also when the model comes from a file, by another cost model on the same cache."""

    def cost(model, batch_size=8):
        before = compiler.answers
        with closing(open_cost_model(Target("tpu_v5e", batch_size), cache=path, client=compiler)) as cost_model:
            return cost_model.submit(model).result(timeout=300), compiler.answers - before

    model = made("plain")
    first, asked = cost(model)
    assert asked == 1
    model.save(tmp_path / "m.keras")
    assert cost(keras.saving.load_model(tmp_path / "m.keras")) == (first, 0)
    assert cost(made("plain", seed=5)) == (first, 0)
    assert cost(model, batch_size=16)[1] == 1
    apply_plan(model, make_plan(model, 0.5, multiple_of=1))
    assert cost(model)[1] == 1


# ------------------------------------------------------------------ the file


def test_results_come_back_as_they_were(path):
    with closing(CostCache(path)) as cache:
        assert cache.get("key") is None
        for number in range(3):
            cache.put("key", result(number))
        assert cache.get("key") == result(2)
    assert cache.get("key") is None
    cache.put("key", {})
    cache.close()
    with closing(CostCache(path)) as cache:
        assert cache.get("key") == result(2)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# ------------------------------------------------------------------ its size


def test_size_is_bounded_and_what_is_used_stays(path):
    limit = 400_000
    with closing(CostCache(path, limit=limit)) as cache:
        for number in range(600):
            cache.put(f"{number}", result(number))
            assert cache.get("0") == result(0)
        assert cache.get("599") == result(599)
        assert cache.get("1") is None
        left = [number for number in range(600) if cache.get(f"{number}")]
    assert limit / 3 < path.stat().st_size <= 1.1 * limit
    # Apart from the one that was used again and again, the newest.
    assert left[1:] == list(range(left[1], 600))
    assert len(left) > 200
    assert healthy(path)


def test_use_is_noted_across_processes(path):
    with closing(CostCache(path)) as cache:
        for number in range(300):
            cache.put(f"{number}", result(number))
    with closing(CostCache(path)) as cache:
        assert cache.get("0") == result(0)
    with closing(CostCache(path, limit=300_000)) as cache:
        cache.put("300", result(300))
        assert cache.get("1") is None
        assert cache.get("0") == result(0)
        assert cache.get("300") == result(300)


def test_result_larger_than_everything_is_not_kept(path, messages):
    with closing(CostCache(path, limit=100_000)) as cache:
        cache.put("small", {"a": 1})
        cache.put("large", result(1, size=50_000))
        assert cache.get("large") is None
        assert cache.get("small") == {"a": 1}
    assert "does not keep a result of" in messages()


def test_reading_waits_for_no_writer(path, messages):
    with closing(CostCache(path)) as cache, closing(sqlite3.connect(path, isolation_level=None)) as other:
        cache.put("key", {"a": 1})
        other.execute("BEGIN IMMEDIATE")
        assert cache.get("key") == {"a": 1}
        other.execute("ROLLBACK")
    assert messages() == ""


# ------------------------------------------------------------------ which file, and whether it is written


def test_settings_choose_the_file(path):
    for setting in ("off", None, False, ""):
        assert open_cache(setting) is None
    with closing(open_cache("auto")) as cache:
        assert cache.path.parent == user_cache_folder()
        assert cache.path.exists()
        cache.put("key of a test", {"a": 1})
    with closing(open_cache("ro")) as reader:
        assert reader.path == cache.path
        assert reader.get("key of a test") == {"a": 1}
    for setting in (path, str(path)):
        with closing(open_cache(setting)) as cache:
            assert cache.path == path


@pytest.mark.parametrize("given", ["off", "OFF", "no", "false", "null", "on", "auto", "ro", "some/file.sqlite"])
@pytest.mark.parametrize("place", ["command line", "file"])
def test_setting_arrives_as_it_was_meant(given, place):
    """YAML and Hydra have their own idea of `off`."""
    if place == "command line":
        with initialize_config_module("autoprune.conf", version_base="1.3"):
            config = compose("search", overrides=[f"target.cache={given}"])
    else:
        with initialize_config_module("autoprune.conf", version_base="1.3"):
            config = OmegaConf.merge(compose("search"), OmegaConf.create(f"target:\n  cache: {given}\n"))
    found = from_config(config.target, TargetSettings).cache
    meant = {"OFF": "off", "no": "off", "false": "off", "null": None, "on": "auto"}
    assert found == meant.get(given, given)


@pytest.mark.parametrize("processes", [0, -1])
def test_number_of_processes_is_checked(processes):
    with pytest.raises(SettingsError, match="target.processes must be 1 or more, or null"):
        TargetSettings(processes=processes)


@pytest.mark.parametrize("live", [False, True])
def test_read_only_writes_nothing(path, live):
    """With and without another process that has the file open for writing."""
    filled(path, 20)
    writer = CostCache(path) if live else None
    if live:
        writer.put("20", result(20))
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if not entry.name.endswith("-shm")}
    names = sorted(entry.name for entry in path.parent.iterdir())
    with closing(CostCache(path, read_only=True)) as cache:
        cache.put("new", {"a": 1})
        assert cache.get("new") is None
        assert [n for n in range(30) if cache.get(f"{n}") == result(n)] == list(range(21 if live else 20))
    assert sorted(entry.name for entry in path.parent.iterdir()) == names
    assert before == {e.name: e.read_bytes() for e in path.parent.iterdir() if not e.name.endswith("-shm")}
    if live:
        writer.close()


def test_read_only_without_a_file_makes_none(tmp_path, messages):
    with closing(CostCache(tmp_path / "folder" / "costs.sqlite", read_only=True)) as cache:
        cache.put("key", {"a": 1})
        assert cache.get("key") is None
    assert list(tmp_path.iterdir()) == []
    assert "no cost cache at" in messages()


def test_read_only_sets_nothing_aside(path, messages):
    path.write_bytes(b"this is not a database, whatever its name says" * 50)
    with closing(CostCache(path, read_only=True)) as cache:
        assert cache.get("key") is None
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert "every compilation is done anew" in messages()
    filled(path := path.parent / "damaged.sqlite")
    path.write_bytes(path.read_bytes()[:PAGE] + b"\xff" * (path.stat().st_size - PAGE))
    with closing(CostCache(path, read_only=True)) as cache:
        assert any(cache.get(f"{number}") is None for number in range(300))
    assert not list(path.parent.glob("*.unusable-*"))


READER = (
    WITHOUT_TENSORFLOW
    + """
import os
from pathlib import Path
from autoprune.cost.cache import CostCache
os.setuid(65534)
cache = CostCache(Path(sys.argv[1]), read_only=True)
print([number for number in range(30) if cache.get(str(number))])
cache.close()
"""
)


@pytest.mark.skipif(os.geteuid() != 0, reason="to become somebody who may not write takes the right to")
def test_read_only_in_a_folder_that_may_not_be_written():
    with tempfile.TemporaryDirectory() as folder:
        filled(path := Path(folder, "costs.sqlite"), 20)
        os.chmod(folder, 0o555)
        reader = started(READER, path)
        assert reader.communicate() == (f"{list(range(20))}\n", "")
        os.chmod(folder, 0o755)
