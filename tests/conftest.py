"""Fixtures for all tests. Models train in seconds; the TPU compiler and Stable-Baselines3 are the real ones."""

import logging
import os
import signal

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

from autoprune import quiet  # noqa: F401 - imports TensorFlow without its greetings

# Machines are shared: how long an example takes says nothing of the code.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache, but share one among themselves."""
    folder = tmp_path_factory.mktemp("cache")
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
