"""The real TPU compiler: what it says, how it is kept alive, and what is remembered."""

import importlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from topologies import images_for, made

from autoprune.cost import measure_cost, open_cost_model
from autoprune.cost.cache import CostCache, cache_key
from autoprune.cost.chips import CHIPS
from autoprune.cost.client import CompilerClient
from autoprune.cost.model import resolve_target, target_names
from autoprune.errors import CostError, TargetError, UnknownNameError
from autoprune.models import zoo
from autoprune.models.fingerprint import architecture_fingerprint
from autoprune.planning import make_plan
from autoprune.records import Target
from autoprune.surgery import apply_plan


@pytest.fixture
def cost_of(compiler):
    def cost(model, name="tpu_v5e", batch_size=8, dtype="bfloat16", cache=None):
        cost_model = open_cost_model(Target(name, batch_size, dtype), cache=cache, client=compiler)
        return cost_model.submit(model).result(timeout=300)

    return cost


@pytest.mark.parametrize("chip", list(CHIPS))
def test_every_generation_gives_a_report(cost_of, chip):
    report = cost_of(made("residual"), chip)
    assert report.kind == "compiler estimate"
    assert 1e-7 < report.latency < 1e-2
    assert report.latency >= report.latency_sum * (1 - 1e-9)
    memory = report.memory
    assert memory.total == memory.weights + memory.activations + memory.code
    assert min(memory.weights, memory.activations, memory.code) > 0
    assert report.provenance["libtpu"]
    assert 0 < report.utilisation < 1
    assert report.bound in ("compute", "HBM")
    # Weights are read at least once.
    assert report.traffic >= 2 * report.parameters
    assert report.provenance["device"] == ("one chip" if CHIPS[chip].devices == 1 else "one core (half a chip)")


def test_published_vgg_figures_are_met(cost_of):
    """VGG-16 at batch 128 on v5e: 0.91 million cycles; two thirds of that after halving every layer's width."""
    model = zoo.build("vgg16", None, None)
    report = cost_of(model, batch_size=128)
    assert report.latency_sum * CHIPS["tpu_v5e"].clock == pytest.approx(0.906e6, rel=0.02)
    assert model.count_params() == pytest.approx(14.98e6, rel=0.005)
    assert report.flops / 128 / 2 == pytest.approx(313.7e6, rel=0.001)


def test_bound_follows_the_arithmetic_intensity(cost_of):
    """One wide dense layer: a single example reads all weights for itself, thousands share them."""
    image = keras.Input((2048,))
    model = keras.Model(image, keras.layers.Dense(2048)(image))
    one, many = cost_of(model, batch_size=8), cost_of(model, batch_size=4096)
    assert (one.bound, many.bound) == ("HBM", "compute")
    assert one.utilisation < many.utilisation


def test_same_model_same_figures_in_another_process(cost_of):
    first = cost_of(made("unet"))
    other = CompilerClient()
    try:
        cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=other)
        again = cost_model.submit(made("unet", seed=3)).result(timeout=300)
    finally:
        other.close()
    assert (again.latency, again.latency_sum, again.memory) == (first.latency, first.latency_sum, first.memory)


def test_weights_take_what_their_tiles_take(cost_of):
    """One dense layer in float32: kernel 203x203 in tiles of 8x128, whichever axis is minor, and a bias of 203."""
    image = keras.Input((203,))
    model = keras.Model(image, keras.layers.Dense(203)(image))
    weights = cost_of(model, dtype="float32").memory.weights
    assert weights == (208 * 256 + 256) * 4


def test_pruning_a_model_changes_its_cost(cost_of):
    model = zoo.build("small_resnet", None, None)
    before = cost_of(model, batch_size=128)
    apply_plan(model, make_plan(model, 0.25))
    after = cost_of(model, batch_size=128)
    assert after.latency < 0.7 * before.latency
    assert after.memory.weights < 0.2 * before.memory.weights
    assert after.parameters == model.count_params()


def test_pruned_model_costs_what_a_model_built_at_that_size_costs(cost_of):
    model = zoo.build("plain_cnn", (8, 8, 1), 10, width=0.5)
    wide = zoo.build("plain_cnn", (8, 8, 1), 10, width=1.0)
    apply_plan(wide, make_plan(wide, 0.5, multiple_of=1))
    assert cost_of(wide) == cost_of(model)
    assert architecture_fingerprint(wide) == architecture_fingerprint(model)


def test_dtype_and_batch_are_part_of_the_target(cost_of):
    model = zoo.build("small_resnet", None, None)
    latencies = {cost_of(model, batch_size=b, dtype=d).latency for b in (8, 128) for d in ("bfloat16", "float32")}
    assert len(latencies) == 4


# ------------------------------------------------------------------ fingerprint and cache


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
    from topologies import TOPOLOGIES

    assert len({architecture_fingerprint(made(name)) for name in TOPOLOGIES}) == len(TOPOLOGIES)


def test_a_compilation_is_remembered(cost_of, tmp_path, compiler):
    path = tmp_path / "costs.sqlite"
    first = cost_of(made("plain"), cache=path)
    compiler_before = compiler._numbers
    again = cost_of(made("plain", seed=5), cache=path)
    assert compiler._numbers == compiler_before
    assert again == first


def test_cache_of_two_processes_is_shared(tmp_path):
    path = tmp_path / "costs.sqlite"
    code = (
        "import sys; from pathlib import Path; from autoprune.cost.cache import CostCache;"
        "c = CostCache(Path(sys.argv[1])); [c.put(f'{sys.argv[2]}-{i}', {'i': i}) for i in range(200)]"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    cache = CostCache(path)
    assert all(cache.get(f"{name}-{i}") == {"i": i} for name in "ab" for i in range(200))


@pytest.mark.parametrize("content", [b"this is not a database, whatever its name says" * 50, None])
def test_unusable_cache_is_set_aside(tmp_path, messages, content):
    path = tmp_path / "costs.sqlite"
    if content is None:
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE somebody_elses (x)")
        database.close()
    else:
        path.write_bytes(content)
    cache = CostCache(path)
    cache.put("key", {"a": 1})
    assert cache.get("key") == {"a": 1}
    assert (tmp_path / "costs.sqlite.unusable-1").exists()
    assert "cannot be used" in messages()


def test_cache_that_cannot_be_written_is_a_warning(tmp_path, messages):
    (tmp_path / "file").write_text("")
    cache = CostCache(tmp_path / "file" / "costs.sqlite")
    cache.put("key", {"a": 1})
    assert cache.get("key") is None
    assert "every compilation is done anew" in messages()


def test_keys_depend_on_every_part():
    assert cache_key(a=1, b=2) == cache_key(b=2, a=1)
    assert len({cache_key(a=1), cache_key(a=2), cache_key(b=1)}) == 3


# ------------------------------------------------------------------ the process


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_process_that_dies_is_replaced_and_the_request_answered():
    client = CompilerClient()
    try:
        # A cost model answers a known architecture from memory: another one has to ask the process.
        before, after = (open_cost_model(Target("tpu_v5e", 8), cache=None, client=client) for _ in range(2))
        first = before.submit(made("plain")).result(timeout=300)
        dead = client.process_id
        os.kill(dead, signal.SIGKILL)
        assert after.submit(made("plain")).result(timeout=300) == first
        assert client.process_id != dead
    finally:
        client.close()


def test_process_that_dies_on_every_try_fails_that_request_only(monkeypatch):
    client = CompilerClient()
    real = CompilerClient._exchange

    def deadly(self, request, timeout):
        if request["batch_size"] == 13:
            os.kill(self.process_id, signal.SIGKILL)
        return real(self, request, timeout)

    monkeypatch.setattr(CompilerClient, "_exchange", deadly)
    try:
        bad = open_cost_model(Target("tpu_v5e", 13), cache=None, client=client).submit(made("plain"))
        good = open_cost_model(Target("tpu_v5e", 8), cache=None, client=client).submit(made("plain"))
        with pytest.raises(CostError, match="died twice on this model"):
            bad.result(timeout=300)
        assert good.result(timeout=300).latency > 0
    finally:
        client.close()


def test_compilation_that_takes_too_long_is_ended():
    client = CompilerClient(timeout=0.05)
    try:
        report = open_cost_model(Target("tpu_v5e", 8), cache=None, client=client).submit(made("plain"))
        with pytest.raises(CostError, match="died twice"):
            report.result(timeout=300)
    finally:
        client.close()


def test_refused_model_gives_the_compilers_words(cost_of):
    """A million images at once do not fit in 16 GB."""
    with pytest.raises(CostError, match="The TPU compiler refused the model: .*RESOURCE_EXHAUSTED"):
        cost_of(zoo.build("small_resnet", (32, 32, 3), None), batch_size=1_000_000)


LAYER = """
import keras
@keras.saving.register_keras_serializable("mine")
class Doubling(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2
"""


def test_layer_of_ones_own_must_lie_in_a_module(tmp_path, monkeypatch):
    """The module is found as this process finds it; a layer of the script that is run cannot be."""
    (tmp_path / "my_layers_of_a_test.py").write_text(LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    known = importlib.import_module("my_layers_of_a_test").Doubling
    unknown = {"__name__": "__main__"}
    exec(LAYER.replace("Doubling", "Unknown"), unknown)
    image = keras.Input((6,))
    with_known, with_unknown = (keras.Model(image, layer()(image)) for layer in (known, unknown["Unknown"]))
    client = CompilerClient()
    try:
        cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=client)
        assert cost_model.submit(with_known).result(timeout=300).latency > 0
        with pytest.raises(CostError, match="must lie in a module that can be imported"):
            cost_model.submit(with_unknown).result(timeout=300)
    finally:
        client.close()


def test_compiled_and_fitted_model_costs_the_same(cost_of):
    model = made("nested")
    fresh = cost_of(model)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    images = images_for(model)
    model.fit(images, np.zeros(len(images)), verbose=0)
    assert cost_of(model) == fresh


def test_nothing_is_left_behind_when_the_parent_is_killed(tmp_path):
    """A killed parent's compiler process sees the end of its input, removes its scratch folder and ends."""
    code = (
        "import time; from autoprune.cost.client import CompilerClient\n"
        "client = CompilerClient(); client._start()\n"
        "print(client.process_id, client._scratch, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child, scratch = parent.stdout.readline().split()
    assert os.path.isdir(scratch)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not os.path.exists(scratch))
    status = Path(f"/proc/{child}/status")
    assert wait_until(lambda: not status.exists() or "zombie" in status.read_text())


def test_closed_client_refuses():
    client = CompilerClient()
    client.close()
    with pytest.raises(CostError, match="is closed"):
        client.submit({})


# ------------------------------------------------------------------ targets


def test_unknown_target_suggests_the_near_one():
    with pytest.raises(TargetError, match="no target 'tpu_v5'. Did you mean 'tpu_v5"):
        resolve_target(Target("tpu_v5"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("tpu_v3", 0), "batch_size must be 1 or more. Received: batch_size=0"),
        (Target("tpu_v3", 8, "bf16"), "no dtype 'bf16'. Did you mean 'bfloat16'"),
    ],
)
def test_impossible_targets_are_refused(target, message):
    with pytest.raises(TargetError, match=message):
        resolve_target(target)


def test_without_the_compiler_auto_falls_back_and_tpus_are_refused(monkeypatch, messages):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else real(name, *a))
    assert resolve_target(Target("auto")) == Target("cpu", 128, "float32")
    open_cost_model(Target("auto")).close()
    assert "libtpu, with jax) is not installed" in messages()
    with pytest.raises(TargetError, match=r"tpu_v5e cannot be used here. .* Use target=cpu"):
        resolve_target(Target("tpu_v5e"))


def test_every_target_has_a_config():
    from autoprune.cli import config_groups

    assert set(target_names()) | {"auto", "all"} == set(config_groups()["target"])


def test_model_without_a_fixed_input_size_is_refused():
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3)(image)
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(CostError, match="depends on its input size, which is not fixed"):
        measure_cost(model, "tpu_v5e", cache=None)


# ------------------------------------------------------------------ this host


def test_a_measured_cost_is_one_number_in_all_processes_of_a_search(tmp_path):
    """As a resumed search finds it: another cost model on the same file."""
    reports = []
    for name in ("plain", "plain", "unet"):
        cost_model = open_cost_model(Target("cpu", 4), measured=tmp_path / "measured.sqlite")
        reports.append(cost_model.submit(made(name)).result())
        cost_model.close()
    assert reports[0] == reports[1]
    assert reports[2].parameters != reports[0].parameters


def test_cost_on_this_host_is_measured():
    model = made("plain")
    report = measure_cost(model, "cpu", batch_size=4)
    assert report.kind == "measured"
    assert report.latency > 0
    assert report.latency_iqr >= 0
    assert report.target.dtype == "float32"
    assert report.memory.weights == 4 * sum(int(np.prod(w.shape)) for w in model.weights)
    assert report.memory.total is None
    assert report.flops > 0


def test_unknown_architecture_suggests_the_near_one():
    with pytest.raises(UnknownNameError, match="no model 'vgg17'. Did you mean 'vgg16'"):
        zoo.build("vgg17", None, None)
