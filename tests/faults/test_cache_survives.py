"""What the cache of compilations lives through: kills, damage, other files in its place, a full disk."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import keras
import pytest

from autoprune.cost import open_cost_model
from autoprune.cost.cache import CostCache
from autoprune.records import Target
from helpers.cached import PAGE, filled, healthy, result
from helpers.processes import WITHOUT_TENSORFLOW, killed, started


@pytest.fixture
def path(tmp_path):
    return tmp_path / "costs.sqlite"


def whole_lines(text):
    """Without a last one that was cut short by a kill."""
    return text[: text.rfind("\n") + 1].splitlines()


WRITER = (
    WITHOUT_TENSORFLOW
    + """
import itertools, random
from pathlib import Path
from autoprune.cost.cache import CostCache

cache = CostCache(Path(sys.argv[1]))
for number in itertools.islice(itertools.count(), int(sys.argv[3])):
    chance = random.Random(number)
    cache.put(f"{sys.argv[2]}-{number}", {"number": number, "kernels": [[[n], chance.random()] for n in range(100)]})
    print(f"{sys.argv[2]}-{number}", flush=True)
"""
)


def test_two_processes_share_a_file(path):
    writers = [started(WRITER, path, name, 200) for name in "ab"]
    with closing(CostCache(path)) as cache:
        for writer in writers:
            # Read while the other one writes.
            for key in writer.stdout:
                assert cache.get(key.strip()) == result(int(key.strip().split("-")[1]))
            assert writer.communicate() == ("", "")
        assert all(cache.get(f"{name}-{n}") == result(n) for name in "ab" for n in range(200))


# Forks writers, which costs less than starting them; ends with its input.
NURSERY = (
    WITHOUT_TENSORFLOW
    + """
import os, random
from pathlib import Path
from autoprune.cost.cache import CostCache

def write(name):
    cache = CostCache(Path(sys.argv[1]))
    for number in range(20_000):
        chance = random.Random(number)
        cache.put(f"{name}-{number}", {"number": number, "kernels": [[[n], chance.random()] for n in range(100)]})
        os.write(1, f"{name}-{number}\\n".encode())
    os._exit(0)

for line in sys.stdin:
    children = {name: os.fork() or write(name) for name in line.split()}
    os.write(1, f"started {' '.join(map(str, children.values()))}\\n".encode())
    for child in children.values():
        os.waitpid(child, 0)
    os.write(1, b"ended\\n")
"""
)


def test_kills_lose_no_finished_entry(path):
    """45 of the fifty: three processes write to one file and are killed at random moments, fifteen times."""
    chance = random.Random(0)
    nursery = started(NURSERY, path)
    for turn in range(15):
        nursery.stdin.write(f"{turn}a {turn}b {turn}c\n")
        nursery.stdin.flush()
        lines = []
        while not any(line.startswith("started") for line in lines) or len(lines) < 5:
            lines.append(nursery.stdout.readline())
        for child in next(line for line in lines if line.startswith("started")).split()[1:]:
            # The first is killed while the others write, the last while nobody does.
            time.sleep(chance.uniform(0, 0.1))
            os.kill(int(child), signal.SIGKILL)
        while lines[-1] != "ended\n":
            lines.append(nursery.stdout.readline())
        keys = [line.strip() for line in lines if "-" in line]
        with closing(CostCache(path)) as cache:
            assert [key for key in keys if cache.get(key) != result(int(key.split("-")[1]))] == []
    assert nursery.communicate() == ("", "")
    assert healthy(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


SEARCH = """
import itertools, sys
import keras
from autoprune.cost import open_cost_model
from autoprune.records import Target

cost_model = open_cost_model(Target("tpu_v5e", 8), cache=sys.argv[1])
for units in itertools.count(8):
    image = keras.Input((16,))
    report = cost_model.submit(keras.Model(image, keras.layers.Dense(units)(image))).result()
    print(units, report.latency, flush=True)
"""


class Deaf:
    """Stands where compiler processes would be, and must not be asked."""

    def submit(self, request):
        raise AssertionError("asked the compiler for what was finished")

    def close(self):
        pass


@pytest.mark.slow
def test_kills_of_a_search_lose_no_finished_compilation(path):
    """Two of the fifty: the parent of a compiler process is killed while that compiles."""
    chance = random.Random(1)
    for _ in range(2):
        search = started(SEARCH, path, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
        lines = [search.stdout.readline() for _ in range(3)]
        with pytest.raises(subprocess.TimeoutExpired):
            search.wait(chance.uniform(0, 1))
        finished = [line.split() for line in whole_lines("".join(lines) + killed(search))]
        assert len(finished) >= 3
        with closing(open_cost_model(Target("tpu_v5e", 8), cache=path, client=Deaf())) as cost_model:
            for units, latency in finished:
                image = keras.Input((16,))
                model = keras.Model(image, keras.layers.Dense(int(units))(image))
                assert cost_model.submit(model).result().latency == float(latency)
    assert healthy(path)


# ------------------------------------------------------------------ what can be wrong with it

FOREIGN = {
    "no database": lambda path: path.write_bytes(b"this is not a database, whatever its name says" * 50),
    "another table": "CREATE TABLE somebody_elses (x)",
    "an older version": "CREATE TABLE costs (key TEXT PRIMARY KEY, result TEXT NOT NULL); PRAGMA user_version = 1",
    "a newer version": f"CREATE TABLE costs (x); PRAGMA application_id = {0x41505255}; PRAGMA user_version = 99",
    "only a mark": "PRAGMA user_version = 7",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_unusable_file_is_set_aside(path, messages, kind):
    if callable(FOREIGN[kind]):
        FOREIGN[kind](path)
    else:
        with closing(sqlite3.connect(path)) as database:
            database.executescript(FOREIGN[kind])
    before = path.read_bytes()
    with closing(CostCache(path)) as cache:
        cache.put("key", {"a": 1})
        assert cache.get("key") == {"a": 1}
    assert (path.parent / "costs.sqlite.unusable-1").read_bytes() == before
    assert "cannot be used" in messages()
    with closing(CostCache(path)) as cache:
        assert cache.get("key") == {"a": 1}


@pytest.mark.parametrize("first", ["get", "put"])
def test_damage_found_in_use_is_set_aside(path, messages, first):
    """Every page but those that are read when the file is opened."""
    filled(path)
    with closing(CostCache(path)) as cache:
        with open(path, "r+b") as file:
            file.seek(PAGE)
            file.write(b"\xff" * (path.stat().st_size - PAGE))
        if first == "get":
            assert [cache.get(f"{number}") for number in range(300)] == [None] * 300
        cache.put("key", {"a": 1})
        assert cache.get("key") == {"a": 1}
    assert "cannot be used" in messages()
    assert (path.parent / "costs.sqlite.unusable-1").exists()
    assert healthy(path)


def test_two_caches_set_a_damaged_file_aside_once(path):
    filled(path)
    with closing(CostCache(path)) as one, closing(CostCache(path)) as two:
        with open(path, "r+b") as file:
            file.seek(PAGE)
            file.write(b"\xff" * (path.stat().st_size - PAGE))
        assert one.get("1") is None
        one.put("one", {"a": 1})
        assert two.get("1") is None
        two.put("two", {"b": 2})
        assert [cache.get(key) for cache in (one, two) for key in ("one", "two")] == [{"a": 1}, {"b": 2}] * 2
    assert len(list(path.parent.glob("*.unusable-?"))) == 1
    assert healthy(path)


def test_a_wrong_bit_gives_no_wrong_figure(path):
    filled(path)
    whole = path.read_bytes()
    chance = random.Random(2)
    lost = 0
    for _ in range(30):
        damaged = bytearray(whole)
        for _ in range(5):
            damaged[chance.randrange(PAGE, len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with closing(CostCache(path)) as cache:
            for number in range(300):
                found = cache.get(f"{number}")
                lost += found is None
                assert found in (None, result(number))
    assert lost > 0


def test_place_that_cannot_be_is_a_warning(tmp_path, messages):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "costs.sqlite", tmp_path):
        with closing(CostCache(place)) as cache:
            cache.put("key", {"a": 1})
            assert cache.get("key") is None
    assert messages().count("every compilation is done anew") == 2


FULL = (
    WITHOUT_TENSORFLOW
    + """
import json, logging, random, resource
from pathlib import Path
from autoprune.cost.cache import cache as module

logging.basicConfig(format="%(message)s")
module._PAUSE_SECONDS = float(sys.argv[2])
cache = module.CostCache(Path(sys.argv[1]))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
for number in range(500):
    cache.put(str(number), {"noise": [random.random() for _ in range(100)]})
during = [number for number in range(500) if cache.get(str(number))]
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
cache.put("later", {"a": 1})
print(json.dumps([during, cache.get("later")]))
cache.close()
"""
)


@pytest.mark.parametrize("pause", [0, 60])
def test_full_disk_is_said_once_and_the_search_goes_on(path, pause):
    done = started(FULL, path, pause)
    out, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    during, later = json.loads(out)
    assert 10 < len(during) < 450
    assert errors.count("could not be written") == 1
    assert len(errors.splitlines()) == 1
    # Once there is room again, it is used, but not asked for at every result.
    assert later == ({"a": 1} if pause == 0 else None)
    assert healthy(path)
    with closing(CostCache(path)) as cache:
        assert all(cache.get(str(number)) for number in during)
