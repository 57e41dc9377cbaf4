"""Fixtures for all tests. Models train in seconds; the TPU compiler and Stable-Baselines3 are the real ones."""

import gc
import logging
import os
import signal
import tempfile
import warnings

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

from autoprune import quiet  # noqa: F401 - imports TensorFlow without its greetings

# Machines are shared: how long an example takes says nothing of the code. The same examples each time: a test that
# fails does so for everybody. `--hypothesis-profile=nightly` looks for new ones.
hypothesis.settings.register_profile("shared", deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("shared")

# A process has a file at a time: the longest come first, so that none of them is left for the end.
LONGEST = (
    "tests/test_readme_walk.py",
    *("commands/test_search.py", "training/test_devices.py", "surgery/test_backends.py", "commands/test_replay.py"),
    *("commands/test_compare.py", "searchers/test_searchers.py", "compiler/test_pool.py", "rl/test_transfer.py"),
    *("surgery/test_applications.py", "surrogate/test_surrogate.py", "commands/test_measure.py", "rl/test_dyna.py"),
    *("surgery/test_exactness.py", "surgery/test_random_graphs.py", "commands/test_several_targets.py"),
    *("commands/test_finetune.py", "surgery/test_keras_hub.py", "faults/test_cache_survives.py"),
    *("models/test_safe_convolutions.py", "faults/test_kills.py", "evaluation/test_workers.py"),
    *("faults/test_resources.py", "workers/test_ray.py", "commands/test_tracking.py"),
)
# Fixtures that take long: whole runs of a command, made once for all tests of a file that look at what they leave, many
# commands that are refused, a policy that is learnt, and the folders of compiler and device processes, of which each
# test starts its own.
COSTLY = {"finished", "learnt", "adapted", "whole", "scratch", "refusals", "policy", "scored_by"}


def pytest_collection_modifyitems(items):
    """Mark what follows from a test's fixtures and place, and put the longest files first."""
    ranks = {}
    for item in items:
        if "compiler" in item.fixturenames:
            item.add_marker("compiler")
        if COSTLY.intersection(item.fixturenames):
            item.add_marker("slow")
        if {"command", "run_in", "running", "started", "subprocess"}.intersection(vars(item.module)):
            item.add_marker("subprocess")
        place = f"{item.path.parent.name}/{item.path.name}"
        ranks[item] = LONGEST.index(place) if place in LONGEST else len(LONGEST)
    items.sort(key=ranks.get)


def pytest_collection_finish():
    """What is here already is no garbage: no test looks at all of it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster on this machine: two nodes, each with room for one actor. Its processes carry its `mark`."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AUTOPRUNE_TESTED_CLUSTER", f"of-{os.getpid()}")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        made.mark = f"AUTOPRUNE_TESTED_CLUSTER=of-{os.getpid()}"
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()
        del made
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets and files to it.
            gc.collect()


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A folder for the scratch folders of this test's children; none is left at the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache, but share one among themselves, in however many processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    before = os.environ.get("AUTOPRUNE_CACHE")
    os.environ["AUTOPRUNE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["AUTOPRUNE_CACHE"]
    else:
        os.environ["AUTOPRUNE_CACHE"] = before


@pytest.fixture(scope="session")
def digits():
    from autoprune.data import load_data
    from autoprune.settings import DataSettings

    return load_data(DataSettings(reward_size=0.25))


@pytest.fixture
def messages(caplog):
    """Everything logged by autoprune during the test, as one text."""
    caplog.set_level(logging.INFO, logger="autoprune")
    return lambda: caplog.text


@pytest.fixture(scope="session")
def compiler():
    """One compiler process for all tests that need the TPU compiler."""
    from autoprune.cost.compiler.pool import CompilerPool
    from autoprune.cost.model import compiler_available

    if not compiler_available():
        pytest.skip("the TPU compiler exists for Linux on x86-64 only")
    pool = CompilerPool(1)
    yield pool
    pool.close()


@pytest.fixture
def hears_ctrl_c():
    """A program started in the background is told to ignore Ctrl-C, and so would be those that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
