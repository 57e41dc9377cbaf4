"""Compiler processes: how many there are, how they die, and what they leave behind. They are the real ones."""

import json
import os
import random
import signal
import tempfile
import threading
import time
from concurrent.futures import CancelledError, Future
from contextlib import closing
from pathlib import Path

import pytest

from autoprune.cost import open_cost_model
from autoprune.cost.compiler import pool
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.errors import CostError
from autoprune.records import Target
from autoprune.workers import ChildProcess, resources
from helpers.processes import gone, started, wait_until
from helpers.topologies import made

WAIT = 300


def asked(client, batch_size=8, name="plain"):
    """A future from a cost model that remembers nothing, so that the pool is asked."""
    return open_cost_model(Target("tpu_v5e", batch_size), cache=None, client=client, route="keras").submit(made(name))


def requests_for(sizes, name="plain"):
    """What a pool is asked for batches of these sizes, made beforehand so that it can be asked for all at once."""
    requests = []

    class Recorder:
        def submit(self, request):
            requests.append(request)
            return Future()

    for size in sizes:
        asked(Recorder(), size, name)
    return requests


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A folder for the scratch folders of this test, and of the processes it starts."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def plenty(monkeypatch):
    """Enough memory for any number of processes."""
    monkeypatch.setattr(resources, "available_memory", lambda: 2**50)


# ------------------------------------------------------------------ how many


@pytest.mark.parametrize(
    ("cores", "gigabytes", "expected"), [(1, 64, 1), (2, 64, 1), (4, 64, 2), (64, 64, 4), (64, 3.5, 2), (64, 0.1, 1)]
)
def test_number_follows_cores_and_memory(monkeypatch, cores, gigabytes, expected):
    monkeypatch.setattr(resources, "usable_cores", lambda: cores)
    monkeypatch.setattr(resources, "available_memory", lambda: gigabytes * 2**30)
    assert CompilerPool().processes == expected


def test_a_containers_limits_count(monkeypatch, tmp_path):
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    monkeypatch.setattr(resources, "_CGROUPS", tmp_path)
    real = resources._text
    monkeypatch.setattr(resources, "_text", lambda p: "0::/job/step" if p.name == "cgroup" else real(p))
    free = resources.available_memory()
    assert 0 < free < 2**50
    assert resources.usable_cores() == len(os.sched_getaffinity(0))
    (group / "memory.max").write_text("max\n")
    assert resources.available_memory() == pytest.approx(free, rel=0.5)
    (tmp_path / "job" / "memory.max").write_text(f"{2 * 10**6}\n")
    (tmp_path / "job" / "memory.current").write_text(f"{10**6}\n")
    (tmp_path / "job" / "memory.stat").write_text(f"anon 1\ninactive_file {10**5}\n")
    (group / "cpu.max").write_text("100000 100000\n")
    assert resources.available_memory() == 1.1 * 10**6
    assert resources.usable_cores() == 1


def test_processes_start_when_work_waits_and_no_sooner(plenty, scratch):
    with closing(CompilerPool(2)) as client:
        assert client.process_ids == ()
        first = asked(client).result(WAIT)
        assert asked(client).result(WAIT) == first
        assert len(client.process_ids) == 1
        both = [client.submit(request) for request in requests_for((16, 32, 64, 128))]
        assert wait_until(lambda: len(client.process_ids) == 2)
        assert len({repr(future.result(WAIT)) for future in both}) > 1
        assert client.answers == 6
        assert len(client.process_ids) == 2
    assert client.process_ids == ()
    assert list(scratch.iterdir()) == []


def test_memory_that_is_short_keeps_the_number_down(monkeypatch, scratch):
    monkeypatch.setattr(resources, "available_memory", lambda: 1.4 * 2**30)
    with closing(CompilerPool(4)) as client:
        for future in [asked(client), asked(client, 16)]:
            assert future.result(WAIT).latency > 0
        assert len(client.process_ids) == 1


@pytest.mark.parametrize(("limit", "value"), [("RESIDENT_LIMIT", 2**20), ("RECYCLE_AFTER", 1)])
def test_a_process_too_large_or_too_old_is_replaced(monkeypatch, scratch, limit, value):
    monkeypatch.setattr(pool, limit, value)
    with closing(CompilerPool(1)) as client:
        first = asked(client).result(WAIT)
        assert wait_until(lambda: client.process_ids == ())
        assert asked(client).result(WAIT) == first


# ------------------------------------------------------------------ how they die


def test_process_that_dies_is_replaced_and_the_request_answered(scratch):
    with closing(CompilerPool(1)) as client:
        first = asked(client).result(WAIT)
        (dead,) = client.process_ids
        os.kill(dead, signal.SIGKILL)
        assert asked(client).result(WAIT) == first
        assert client.process_ids != (dead,)


def test_process_that_dies_on_every_try_fails_that_request_only(monkeypatch, scratch):
    real = ChildProcess._exchange

    def deadly(self, running, request, *args):
        if '"batch_size": 13' in json.dumps(request):
            os.kill(self.id, signal.SIGABRT)
        return real(self, running, request, *args)

    monkeypatch.setattr(ChildProcess, "_exchange", deadly)
    with closing(CompilerPool(1)) as client:
        bad, good = asked(client, 13), asked(client, 8)
        with pytest.raises(
            CostError,
            match=r"died 2 times before it could compile the model\. .* last words: \(exit code -6\)",
        ):
            bad.result(WAIT)
        assert good.result(WAIT).latency > 0


def test_compilation_that_takes_too_long_is_ended(scratch):
    with closing(CompilerPool(1, timeout=0.05)) as client:
        with pytest.raises(CostError, match=r"took longer than 0\.05 s to compile the model"):
            asked(client).result(WAIT)
        assert client.process_ids == ()


def test_process_that_cannot_start_says_why(monkeypatch, scratch):
    monkeypatch.setattr(pool, "worker_environment", lambda *_: {"PYTHONINTMAXSTRDIGITS": "none"})
    message = r"died 3 times before it could start\. Its last words: \(exit code 1\) .*STRDIGITS"
    with closing(CompilerPool(1)) as client, pytest.raises(CostError, match=message):
        client.submit({}).result(WAIT)


def test_requests_outlive_the_kills_of_their_processes(plenty, scratch):
    """Three of the fifty: processes killed at random moments while requests wait; each of them is answered."""
    chance = random.Random(5)
    with closing(CompilerPool(2)) as client:
        expected = {size: asked(client, size).result(WAIT).latency for size in (8, 16)}
        for _ in range(3):
            futures = {size: asked(client, size) for size in expected}
            time.sleep(chance.uniform(0, 0.5))
            if numbers := client.process_ids:
                os.kill(chance.choice(numbers), signal.SIGKILL)
            assert {size: future.result(WAIT).latency for size, future in futures.items()} == expected


# ------------------------------------------------------------------ how they end


def test_closing_does_not_wait_for_compilations(plenty, scratch):
    """Neither for those that run nor for those that wait: all of them fail, a cancelled one stays cancelled."""
    before = set(threading.enumerate())  # A pool of other tests may be at work.
    client = CompilerPool(2)
    # So many that most still wait, however long the second process takes to start.
    futures = [client.submit(request) for request in 25 * requests_for((8, 16, 32, 64), "unet")]
    assert wait_until(lambda: len(client.process_ids) == 2)
    last = client.submit({})
    assert last.cancel()
    numbers = client.process_ids
    client.close()
    assert all(future.done() for future in futures)
    failed = [str(future.exception()) for future in futures if future.exception()]
    assert len(failed) >= 20
    assert all("was closed before it could compile the model" in words for words in failed)
    with pytest.raises(CancelledError):
        last.result(timeout=0)
    assert all(gone(number) for number in numbers)
    assert list(scratch.iterdir()) == []
    client.close()
    with pytest.raises(CostError, match="was closed"):
        client.submit({})
    made = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in made if thread.name == "compiler process" and thread.is_alive()]


def test_closing_from_a_callback_does_not_wait_for_itself(scratch):
    client = CompilerPool(1)
    closed = threading.Event()
    future = client.submit({"program": "no such program"})
    future.add_done_callback(lambda _: (client.close(), closed.set()))
    assert isinstance(future.exception(WAIT), CostError)
    assert closed.wait(WAIT)
    assert wait_until(lambda: not list(scratch.iterdir()))


PARENT = """
import os, sys, tempfile
from contextlib import closing
from helpers.topologies import made
from autoprune.cost import open_cost_model
from autoprune.cost.compiler.pool import CompilerPool
from autoprune.records import Target

def told(future, client):
    future.result()
    print(*client.process_ids, flush=True)
    return future

client = CompilerPool(1)
"""
INTERRUPTED = """
with closing(client):
    first = told(open_cost_model(Target("tpu_v5e", 8), cache=None, client=client).submit(made("plain")), client)
    while True:
        open_cost_model(Target("tpu_v5e", 8), cache=None, client=client).submit(made("unet")).result()
"""
UNCLOSED = """
told(open_cost_model(Target("tpu_v5e", 8), cache=None, client=client).submit(made("plain")), client)
open_cost_model(Target("tpu_v5e", 16), cache=None, client=client, route="keras").submit(made("unet"))
"""
PATIENT = """
cost_model = open_cost_model(Target("tpu_v5e", 8), cache=None, client=client)
print(cost_model.submit(made("plain")).result().latency, flush=True)
sys.stdin.read()
"""


def parent_of_a_pool(code, scratch):
    # Keras on JAX starts twice as fast.
    return started(PARENT + code, TMPDIR=str(scratch), KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_leaves_no_process_and_no_file(scratch):
    parent = parent_of_a_pool(INTERRUPTED, scratch)
    worker = int(parent.stdout.readline())
    time.sleep(random.Random(0).uniform(0, 1))
    parent.send_signal(signal.SIGINT)
    _, errors = parent.communicate(timeout=WAIT)
    assert "KeyboardInterrupt" in errors
    assert gone(worker)
    assert list(scratch.iterdir()) == []


def test_a_pool_that_nobody_closed_ends_with_its_interpreter(scratch):
    parent = parent_of_a_pool(UNCLOSED, scratch)
    out, errors = parent.communicate(timeout=WAIT)
    assert parent.returncode == 0, errors
    assert gone(int(out))
    assert list(scratch.iterdir()) == []


def test_nothing_is_left_behind_when_the_parent_is_killed(scratch):
    """In the midst of a compilation: for its answer nobody waits."""
    parent = parent_of_a_pool(INTERRUPTED, scratch)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert wait_until(lambda: gone(worker))
    assert list(scratch.iterdir()) == []


def test_pools_of_two_processes_do_not_disturb_each_other(scratch):
    """libtpu by itself lets one process of a machine use it."""
    parents = [parent_of_a_pool(PATIENT, scratch) for _ in "ab"]
    answers = [parent.stdout.readline() for parent in parents]
    assert answers[0] == answers[1]
    assert float(answers[0]) > 0
    for parent in parents:
        parent.kill()
        parent.communicate()
    assert wait_until(lambda: not list(scratch.iterdir()))


def test_libtpu_leaves_nothing_in_the_temporary_folder(scratch):
    """What it writes goes to the scratch folder, which goes with the process; it takes no lock of the machine."""
    with closing(CompilerPool(1)) as client:
        asked(client).result(WAIT)
        (number,) = client.process_ids
        (folder,) = scratch.iterdir()
        assert any(name.startswith("tpu_driver") for name in os.listdir(folder))
        files = {os.readlink(entry) for entry in Path(f"/proc/{number}/fd").iterdir()}
        assert {file for file in files if file.startswith("/tmp/")} == {
            file for file in files if file.startswith(f"{folder}/")
        }
    assert not list(Path("/tmp").glob(f"tpu_logs/*.{number}"))
    assert list(scratch.iterdir()) == []
