"""Measured costs: the protocol, this host, and the path to an attached TPU, run on this machine's processor."""

import dataclasses
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading

import keras
import numpy as np
import pytest

from autoprune.cost import measure_cost, open_cost_model
from autoprune.cost.chips import CHIPS
from autoprune.cost.measured import attached_tpu as attached
from autoprune.cost.measured.attached_tpu import (
    CHIP_OF_KIND,
    AttachedTpuCostModel,
    find_attached_tpu,
    self_check,
    why_not_attached,
)
from autoprune.cost.measured.timing import FEWEST_PAIRS, PAIRS, SECONDS, SPAN, loop_lengths, make_loop, time_loop
from autoprune.cost.model import resolve_target
from autoprune.errors import CostError, TargetError
from autoprune.records import Memory, Target
from helpers.places import ROOT
from helpers.processes import UNOPTIMISED
from helpers.topologies import made


class FakeLoop:
    """A loop whose every call and iteration take a known time, on a clock of its own."""

    def __init__(self, overhead, iteration, hiccups=lambda call: 0.0):
        self.now, self.calls = 0.0, []
        self.overhead, self.iteration, self.hiccups = overhead, iteration, hiccups

    def run(self, iterations):
        self.now += self.overhead + iterations * self.iteration + self.hiccups(len(self.calls))
        self.calls.append(iterations)

    def time_loop(self):
        return time_loop(self.run, lambda: self.now)


# ------------------------------------------------------------------ the protocol


@pytest.mark.parametrize("overhead", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("iteration", [1e-6, 2.5e-4, 0.02, 0.7, 20.0])
def test_what_a_call_costs_is_not_in_the_latency(overhead, iteration):
    loop = FakeLoop(overhead, iteration)
    timing = loop.time_loop()
    assert timing.latency == pytest.approx(iteration, rel=1e-6)
    assert timing.iqr == pytest.approx(0, abs=1e-6 * iteration)
    affordable = PAIRS * (SPAN + iteration + 2 * overhead) < SECONDS / 2
    assert timing.runs == PAIRS if affordable else FEWEST_PAIRS <= timing.runs <= PAIRS
    assert loop.now < 2 * SECONDS + (FEWEST_PAIRS + 5) * (iteration + 2 * overhead)
    assert {*loop.calls[-2 * timing.runs :]} == {*timing.lengths}


def test_a_third_of_disturbed_runs_leaves_the_median():
    timing = FakeLoop(1e-4, 1e-3, lambda call: 0.05 if call % 6 == 5 else 0.0).time_loop()
    assert timing.latency == pytest.approx(1e-3, rel=1e-6)
    assert timing.iqr > 0


def test_a_first_run_that_is_held_up_does_not_shorten_the_loops():
    timing = FakeLoop(1e-4, 1e-4, lambda call: 0.1 if call < 2 else 0.0).time_loop()
    assert (timing.lengths[1] - timing.lengths[0]) * 1e-4 > SPAN / 2


def test_loops_that_take_no_longer_are_no_measurement():
    with pytest.raises(CostError, match="cannot be timed: .* iterations took"):
        FakeLoop(1e-3, 0.0).time_loop()
    ever_slower = FakeLoop(1.0, 0.01)
    ever_slower.hiccups = lambda call: -0.5 if ever_slower.calls and call % 2 else 0.0
    with pytest.raises(CostError, match="Other work on the device"):
        time_loop(lambda n: ever_slower.run(0 if len(ever_slower.calls) > 4 else n), lambda: ever_slower.now)


def test_lengths_suit_the_model():
    assert loop_lengths(SPAN / 1000) == (1, 1001)
    assert loop_lengths(SPAN) == (0, 1)
    assert loop_lengths(100.0) == (0, 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_every_iteration_needs_the_one_before(dtype):
    """The function turns 0 into 1 and 1 into 0: the parity of their number shows, in the first element alone."""
    ops = keras.ops

    def flipped(state, inputs):
        return [ops.cast(ops.cast(inputs[0], "float32") * -1 + state, dtype)]

    start = [ops.ones((2, 3), dtype)]
    for count in (0, 1, 2, 5):
        inputs, outputs = make_loop(flipped)(
            ops.convert_to_tensor(count, "int32"), 1.0, start, [ops.zeros((2, 3), dtype)]
        )
        values = ops.convert_to_numpy(ops.cast(inputs[0], "int32"))
        assert values[0, 0] == (1 if count == 0 else (count - 1) % 2)
        assert values.sum() == 5 + values[0, 0]
        assert ops.convert_to_numpy(ops.cast(outputs[0], "int32"))[0, 0] == count % 2


# ------------------------------------------------------------------ this host


def dense(width):
    image = keras.Input((width,))
    return keras.Model(image, keras.layers.Dense(width)(image))


def test_a_network_of_64_times_the_work_takes_longer_on_this_host():
    """Were the work moved out of the loop or left out, both would take as long."""
    small, large = (measure_cost(dense(width), "cpu", batch_size=64) for width in (256, 2048))
    assert large.flops == 64 * small.flops
    assert large.latency > 4 * small.latency


@pytest.mark.parametrize("name", ["words", "several_inputs_and_outputs", "attention_of_two"])
def test_inputs_of_every_kind_are_measured_on_this_host(name):
    report = measure_cost(made(name), "cpu", batch_size=4)
    assert report.latency > 0


def test_cost_on_this_host_is_measured():
    model = made("plain")
    report = measure_cost(model, "cpu", batch_size=4)
    backend = keras.backend.backend()
    assert report.kind == "measured"
    assert report.latency > 0
    assert report.latency_iqr >= 0
    assert report.target.dtype == "float32"
    weights = 4 * sum(int(np.prod(w.shape)) for w in model.weights)
    assert report.memory.weights == weights
    if backend == "jax":
        # At least the images, and the first feature map before and after its activation.
        assert report.memory.activations >= 4 * 4 * (8 * 8 * 2 + 8 * 8 * 8)
        assert report.memory.total == weights + report.memory.activations
    else:
        assert report.memory.total is None
    assert report.flops > 0
    assert report.provenance["backend"] == backend
    assert report.provenance["runs"] >= FEWEST_PAIRS
    assert re.fullmatch(r"[01] and \d+", report.provenance["loop_lengths"])
    assert {"host", "keras", backend, "loop_lengths"} <= set(report.provenance)


def test_a_measured_cost_is_one_number_in_all_processes_of_a_search(tmp_path):
    """As a resumed search finds it: another cost model on the same file."""
    reports = []
    for name in ("plain", "plain", "unet"):
        cost_model = open_cost_model(Target("cpu", 4), measured=tmp_path / "measured.sqlite")
        reports.append(cost_model.submit(made(name)).result())
        cost_model.close()
    assert reports[0] == reports[1]
    assert reports[2].parameters != reports[0].parameters


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX traces whatever runs")
def test_a_layer_that_xla_refuses_is_named_in_its_words_on_this_host():
    import tensorflow as tf

    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Lambda(lambda x: tf.strings.length(tf.strings.as_string(x)))(image))
    with pytest.raises(CostError, match=r"could not be run on this host: (?s:.*)AsString"):
        measure_cost(model, "cpu", batch_size=2)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="already there")
def test_this_host_is_measured_with_keras_on_jax():
    part = "cost_on_this_host or (every_kind and words) or (every_iteration and int32)"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/cost/measured/test_measured.py", "-k", part],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": UNOPTIMISED},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "3 passed" in done.stdout


# ------------------------------------------------------------------ an attached device, in a process of its own


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where processes make their scratch folders, and the processes themselves; none is left at the end."""
    processes = []
    popen = subprocess.Popen

    def noted(*arguments, **options):
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", noted)
    yield tmp_path
    assert list(tmp_path.glob("autoprune-*")) == []
    assert len(processes) == 1
    assert processes[0].poll() is not None


def on_processor(**options):
    return AttachedTpuCostModel(Target("tpu", 4), platform="cpu", **options)


def test_a_fresh_process_measures(scratch):
    model = made("several_inputs_and_outputs")
    report = on_processor().submit(model).result()
    memory = report.memory
    assert (report.kind, report.target) == ("measured", Target("tpu", 4, "bfloat16"))
    assert report.latency > 0
    assert report.latency_iqr >= 0
    assert memory.weights == 2 * model.count_params()
    assert memory.activations > 0
    assert memory.total == memory.weights + memory.activations + memory.code
    assert (report.utilisation, report.bound, report.traffic) == (None, None, None)
    facts = report.provenance
    assert facts["device"] == "cpu"
    assert facts["total"] == "sum of the parts"
    assert facts["self_check"] == "not done: no chip is described for the device 'cpu'"
    assert facts["runs"] >= FEWEST_PAIRS
    assert {"jax", "keras", "runtime", "loop_lengths", "temp_bytes", "argument_bytes"} <= set(facts)


def own_layer(folder, name, body):
    """A layer in a module of its own, with something that happens only where Keras runs on JAX: not in this process."""
    (folder / f"{name}.py").write_text(
        "import keras, os, signal, sys, time\n"
        f"if keras.backend.backend() == 'jax':\n    {body}\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        f"class {name.title().replace('_', '')}(keras.layers.Layer):\n"
        "    def call(self, inputs):\n        return inputs * 2\n"
    )
    (layer,) = [v for v in vars(importlib.import_module(name)).values() if isinstance(v, type)]
    image = keras.Input((6,))
    return keras.Model(image, layer()(image))


pytestmark_tensorflow = pytest.mark.skipif(keras.backend.backend() == "jax", reason="the layers tell it by the backend")


@pytestmark_tensorflow
def test_process_that_dies_leaves_its_last_words(scratch, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    model = own_layer(
        tmp_path, "deadly_layer", "sys.stderr.write('it went dark\\n'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
    )
    with pytest.raises(CostError, match=r"device was killed .*last words: \(exit code -9\) .*it went dark"):
        on_processor().submit(model).result()


@pytestmark_tensorflow
def test_process_that_takes_too_long_is_killed(scratch, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    model = own_layer(tmp_path, "sleepy_layer", "time.sleep(300)")
    with pytest.raises(CostError, match="took longer than 4 s"):
        on_processor(timeout=4).submit(model).result()


@pytestmark_tensorflow
@pytest.mark.usefixtures("hears_ctrl_c")
def test_interrupt_ends_the_process(scratch, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    model = own_layer(tmp_path, "slow_layer", "time.sleep(300)")
    timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        on_processor().submit(model)
    timer.join()


def test_layer_of_the_script_itself_is_refused(scratch):
    unknown = {"__name__": "__main__"}
    exec(
        "import keras\n@keras.saving.register_keras_serializable('mine')\n"
        "class Unimportable(keras.layers.Layer):\n    def call(self, inputs):\n        return inputs * 2\n",
        unknown,
    )
    image = keras.Input((6,))
    with pytest.raises(CostError, match="must lie in a module that can be imported"):
        on_processor().submit(keras.Model(image, unknown["Unimportable"]()(image))).result()


def test_device_that_is_not_there_is_named(scratch):
    with pytest.raises(CostError, match="JAX cannot open a nonesuch device"):
        AttachedTpuCostModel(Target("tpu", 4), platform="nonesuch").submit(made("plain")).result()


def test_model_without_a_fixed_input_size_is_refused_before_a_process_is_started():
    image = keras.Input((None, 8))
    with pytest.raises(CostError, match="depends on its input size, which is not fixed"):
        on_processor(timeout=0).submit(keras.Model(image, keras.layers.Dense(2)(image))).result()


# ------------------------------------------------------------------ the self-check

ANSWER = {
    "latency": 2e-5,
    "iqr": 1e-6,
    "runs": 30,
    "lengths": [1, 1001],
    "figures": {"argument": 1, "output": 2, "alias": 0, "temp": 3, "generated_code": 4},
    "peak": 123_456,
    "traffic": 10_000,
    "device": "TPU v5 lite",
    "runtime": "libtpu",
    "versions": {"jax": "1"},
}


@pytest.fixture
def v5e_says(monkeypatch, compiler):
    """The report of a model of which an attached v5e would say this of its memory."""

    def report(model, memory):
        answer = {"result": {**ANSWER, "memory": dataclasses.astuple(memory)}}
        monkeypatch.setattr(attached, "ask_fresh_process", lambda *_: answer)
        monkeypatch.setattr("autoprune.cost.model.find_attached_tpu", lambda: "/dev/accel0")
        cost_model = open_cost_model(Target("tpu", 8), cache=None, client=compiler)
        try:
            return cost_model.submit(model).result(timeout=300)
        finally:
            cost_model.close()

    return report


def test_live_program_is_compared_with_the_described_chip(v5e_says, compiler, messages):
    model = made("plain")
    described = open_cost_model(Target("tpu_v5e", 8), cache=None, client=compiler).submit(model).result(timeout=300)
    report = v5e_says(model, described.memory)
    assert report.provenance["self_check"] == "equal"
    assert report.provenance["total"] == "peak bytes in use"
    assert report.memory == dataclasses.replace(described.memory, total=123_456)
    assert "disagree" not in messages()
    chip = CHIPS["tpu_v5e"]
    assert report.provenance["chip"] == "tpu_v5e"
    assert report.utilisation == pytest.approx(report.flops / (2e-5 * chip.peak))
    assert report.bound == chip.bound(report.flops, 10_000)
    assert report.traffic == 10_000

    other = v5e_says(model, dataclasses.replace(described.memory, weights=7))
    difference = f"weights 7 on the device, {described.memory.weights} when only compiled"
    assert other.provenance["self_check"] == difference
    assert f"disagree on the memory of '{model.name}': {difference}" in messages()
    assert other.latency == report.latency


def test_self_check_compares_the_parts():
    memory = Memory(1, 2, 3, 6)
    assert self_check(memory, dataclasses.replace(memory, total=99)) == "equal"
    assert self_check(memory, Memory(1, 5, 4, 10)) == (
        "activations 2 on the device, 5 when only compiled; code 3 on the device, 4 when only compiled"
    )


def test_self_check_that_cannot_be_made_costs_no_measurement(monkeypatch):
    class Refusing:
        def submit(self, model):
            raise CostError("no compiler today")

        def close(self):
            pass

    answer = {"result": {**ANSWER, "memory": [1, 2, 3, 6]}}
    monkeypatch.setattr(attached, "ask_fresh_process", lambda *_: answer)
    report = AttachedTpuCostModel(Target("tpu", 8), lambda target: Refusing()).submit(made("plain")).result()
    assert report.provenance["self_check"] == "not done: no compiler today"
    assert report.latency == 2e-5


def test_every_chip_is_known_by_its_device():
    assert set(CHIP_OF_KIND.values()) == set(CHIPS)


# ------------------------------------------------------------------ is there one?


def test_without_a_tpu_the_target_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("autoprune.cost.model.find_attached_tpu", lambda: "")
    with pytest.raises(TargetError, match=r"/dev/accel.*/dev/vfio.*TPU_NAME.*Choose tpu_v5e or another generation"):
        resolve_target(Target("tpu"))
    with pytest.raises(TargetError, match="attached to this host, and there is none"):
        open_cost_model(Target("tpu"))


def test_with_a_tpu_the_target_is_what_was_asked_and_auto_stays_an_estimate(monkeypatch):
    monkeypatch.setattr("autoprune.cost.model.find_attached_tpu", lambda: "/dev/accel0")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert resolve_target(Target("tpu", 8)) == Target("tpu", 8, "bfloat16")
    assert resolve_target(Target("auto")).name != "tpu"


@pytest.mark.parametrize("name", ["accel0", "vfio/3"])
def test_device_files_show_a_tpu(tmp_path, name):
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # there wherever devices can be passed through
    (tmp_path / "accel").mkdir()  # of accelerators by others
    assert find_attached_tpu(tmp_path, {}) == ""
    (tmp_path / name).touch()
    assert find_attached_tpu(tmp_path, {}) == str(tmp_path / name)


def test_variables_of_a_tpu_vm_show_a_tpu(tmp_path):
    assert find_attached_tpu(tmp_path, {"TPU_WORKER_ID": "0"}) == "TPU_WORKER_ID"
    assert find_attached_tpu(tmp_path, {"TPU_NAME": ""}) == ""


def test_a_process_that_keeps_the_tpu_for_itself_is_told_so():
    assert "JAX_PLATFORMS=cpu" in why_not_attached("/dev/accel0", "jax", None)
    assert why_not_attached("/dev/accel0", "jax", "cpu") == ""
    assert why_not_attached("/dev/accel0", "tensorflow", None) == ""
