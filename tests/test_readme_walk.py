"""Only the README, from nothing to a pruned model of one's own: every command of it is run, as it stands there.

Behind a command stand options that make it cheap: fewer images, epochs and evaluations, narrower networks. Commands of
autoprune run in a folder that holds what the README says a reader has, `my.keras` and `my.npz`; those on its files in
a copy of them. What CI runs itself, on a new machine, is looked for in `.ci/run`.
"""

import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest

from helpers import small_networks
from helpers.places import ROOT
from helpers.processes import wait_until
from helpers.running import command

README = (ROOT / "README.md").read_text()
PROGRAMS = "python|pip|pytest|tensorboard|autoprune|eval|pre-commit|apt-get|git|ruff|mypy|mlflow|wandb"

pytestmark = [pytest.mark.slow, pytest.mark.compiler, pytest.mark.subprocess]
long = pytest.mark.long  # Commands whose parts tests/commands look at.


def commands_of(page):
    """Every command of a page, in its order: lines of shell blocks and of indented ones, and commands in sentences."""
    shell = re.sub(r"^```(?!sh\n)\w+\n.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    pattern = rf"^```sh\n((?s:.*?))^```|^    (\S.*)|`((?:{PROGRAMS}) [^`]+|\.ci/run)`"
    found = re.findall(pattern, shell, re.MULTILINE)
    lines = [text for block, *others in found for text in (*block.replace("\\\n", " ").splitlines(), *others) if text]
    return list(dict.fromkeys(" ".join(line.split()) for line in lines))


BRIEF = ("training.epochs=1", "training.fine_tune_epochs=1", "evaluation.tuning_steps=2", "constraints.multiple_of=32")
FEW = (*BRIEF, "data.train_size=200", "search.evaluations=2")
MINE = ("model=file", "model.path=my.keras")
# Commands of autoprune in the order of the walk, each with what makes it cheap, and a file that its folder then holds.
WALK = {
    "python -m autoprune.search": ((*FEW, "constraints.multiple_of=64", "hydra.run.dir=FOLDER"), "pruned.keras"),
    "python -m autoprune.compare latencies=[0.4] seeds=[0,1,2,3,4] "
    "searchers=[uniform,uniform_depth_width,random,greedy,evolution,exact,rl] controls=[] uniform_curve=2": (
        (
            *(*FEW, "constraints.multiple_of=64", "searchers=[uniform,exact,rl]", "seeds=[0]"),
            "hydra.run.dir=COMPARISON",
        ),
        "comparison.html",
    ),
    "python -m autoprune.search resume=FOLDER": (("search.evaluations=3",), "report.html"),
    "python -m autoprune.search model=file model.path=my.keras data=npz data.path=my.npz "
    "target=tpu_v5e target.batch_size=64 budget.latency=0.5": (
        (*BRIEF, "search.evaluations=2", "hydra.run.dir=A"),
        "pruned.keras",
    ),
    "python -m autoprune.search model=vgg16 data=fashion_mnist target=tpu_v3 target.batch_size=128 budget.latency=0.4 "
    "agent=td3 search.evaluations=300": (
        (
            *FEW,
            "constraints.multiple_of=4",
            "model.width=0.25",
            "data.dir=fashion",
            "data.reward_size=100",
            "hydra.run.dir=B",
        ),
        "pruned.keras",
    ),
    "python -m autoprune.measure model=file model.path=my.keras groups=true": ((), "costs.json"),
    "python -m autoprune.measure model=file model.path=my.keras target=all sweep=uniform": (
        ("keep_ratios=[0.5]",),
        "costs.json",
    ),
    "python -m autoprune.finetune run=FOLDER": (("training.fine_tune_epochs=1",), "finetuned.keras"),
    "python -m autoprune.export run=FOLDER": (("formats=[saved_model]",), "export.json"),
    "python -m autoprune.measure target=all": (MINE, "costs.json"),
    "python -m autoprune.replay policy=FOLDER/policy": ((*FEW[:-1], *MINE, "budget.latency=0.8"), "pruned.keras"),
    "python -m autoprune.learn": ((*FEW, "models=[my.keras]", "latencies=[0.8]"), "policy/actor.safetensors"),
    "python -m autoprune.report run=A run=B": ((), "report.html"),
    "python -m autoprune.compare": (
        (*FEW, *MINE, "searchers=[uniform,random]", "latencies=[0.8]", "seeds=[0]", "controls=[]", "uniform_curve=1"),
        "comparison.html",
    ),
}
# Commands on the files of autoprune, each with what makes it cheap.
IN_A_COPY = {
    "python tests/benchmarks/cells.py": (),
    "python tests/benchmarks/cells.py --longer": (),
    'pytest -m "not slow"': ("tests/test_architecture.py", "-n", "0"),
    "pytest -n 0": ("tests/test_architecture.py",),
    "pre-commit install": (),
    "python tests/helpers/option_tables.py": (),
    "python tests/benchmarks/tables.py": (),
}
BY_CI = ('pip install ".[test]"', "pytest")
# Each has a test of its own below.
OTHERS = (
    *("tensorboard --logdir FOLDER/tensorboard", "python -m autoprune", "autoprune search"),
    *('eval "$(autoprune completion)"', 'pip install ".[notebook]"', ".ci/run"),
)


def test_every_command_of_the_readme_is_run():
    run = {*WALK, *IN_A_COPY, *BY_CI, *OTHERS}
    named = set(commands_of(README))
    assert run <= named
    # A command that a sentence names without what it is given.
    assert not {line for line in named - run if not any(other.startswith(f"{line} ") for other in run)}


# ------------------------------------------------------------------ what a reader has


@pytest.fixture(scope="module")
def home(tmp_path_factory, digits):
    """The reader's folder, with a model, its data, and the files of a data set that would be downloaded."""
    folder = tmp_path_factory.mktemp("home")
    small_networks.save_trained(small_networks.residual(), folder / "my.keras", digits)
    splits = {"train": digits.train.head(200), "test": digits.test.head(100)}
    arrays = {f"x_{name}": np.asarray(split.images[:]) for name, split in splits.items()}
    np.savez(folder / "my.npz", **arrays, **{f"y_{name}": split.labels for name, split in splits.items()})
    (folder / "fashion").mkdir()
    kinds = np.random.default_rng(0).integers(0, 256, (10, 28, 28), np.uint8)  # One picture of each.
    for prefix, count in (("train", 400), ("t10k", 100)):
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", kinds[labels]), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (folder / "fashion" / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))
    return folder


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The environment of a reader who has installed autoprune: its script is there as `pip` makes it."""
    folder = tmp_path_factory.mktemp("bin")
    (name, entry), *others = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items()
    assert not others
    module, _, function = entry.partition(":")
    script = f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    path = [str(folder), sysconfig.get_path("scripts"), os.environ["PATH"]]
    return {**os.environ, "PATH": os.pathsep.join(path)}


# ------------------------------------------------------------------ the walk, in its order


@long
@pytest.mark.parametrize("line", WALK)
def test_the_walk(line, home):
    python, flag, module, *options = shlex.split(line)
    assert (python, flag) == ("python", "-m")
    cheap, left = WALK[line]
    name, before = module.removeprefix("autoprune."), times(home.rglob(left))
    done = command(*options, *cheap, module=name, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    given = dict(option.split("=", 1) for option in (*options, *cheap))
    named = given.get("resume") or given.get("hydra.run.dir") or f"outputs/{name}"
    (made,) = (path for path, _ in times(home.rglob(left)) - before)
    assert made.is_relative_to(home / named)


def times(paths):
    """When files were last written."""
    return {(path, path.stat().st_mtime_ns) for path in paths}


@long
def test_the_end_of_the_walk_is_a_smaller_model_of_ones_own(home):
    """In Keras alone, and as accurate as it was told."""
    mine, pruned = (keras.saving.load_model(home / path) for path in ("my.keras", "A/pruned.keras"))
    assert pruned.count_params() < mine.count_params()
    metrics = json.loads((home / "A/metrics.json").read_text())
    rows = {row["name"]: row for row in metrics["rows"]}
    assert rows[metrics["kept"]]["cost"]["latency"] <= 0.5 * rows["dense"]["cost"]["latency"]
    with np.load(home / "my.npz") as arrays:
        right = pruned.predict(arrays["x_test"], verbose=0).argmax(-1) == arrays["y_test"]
    assert right.mean() == pytest.approx(rows[metrics["kept"]]["test_accuracy"])


@long
def test_tensorboard_shows_the_run(home, programs):
    (line,) = (line for line in OTHERS if line.startswith("tensorboard"))
    words = [*shlex.split(line), "--port", "0"]
    server = subprocess.Popen(words, cwd=home, env=programs, stderr=subprocess.PIPE, text=True)
    try:
        said = iter(server.stderr.readline, "")
        address = next(found[0] for row in said if (found := re.search(r"http://[\w.]+:\d+/", row)))
        scalars = {}

        def has_read():
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}data/plugin/scalars/tags") as answer:
                scalars.update(json.load(answer))
            return {"search/rl", "search/uniform_depth_width"} <= set(scalars)

        assert wait_until(has_read, seconds=120)
        assert {"search/score", "search/best score"} <= set(scalars["search/rl"])
    finally:
        server.kill()
        server.communicate()


# ------------------------------------------------------------------ commands around it


def test_the_commands_are_listed_and_the_script_is_the_same(programs, tmp_path):
    listed = subprocess.run(
        [sys.executable, *shlex.split("-m autoprune")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    named = re.findall(r"^\| `python -m autoprune\.(\w+)", README, re.MULTILINE)
    assert set(re.findall(r"^  (\w+) +\S", listed.stdout, re.MULTILINE)) == set(named)
    script, module = (
        subprocess.run([*words, "--help"], cwd=tmp_path, env=programs, capture_output=True, text=True, check=True)
        for words in (["autoprune", "search"], [sys.executable, "-m", "autoprune.search"])
    )
    assert script.stdout == module.stdout
    assert "budget.latency=" in script.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_shell_completes_after_the_line_that_is_given(programs):
    (line,) = (line for line in OTHERS if line.startswith("eval"))
    told = subprocess.run(
        ["bash", "-c", f"{line}; complete -p autoprune"], env=programs, capture_output=True, text=True, check=True
    )
    assert told.stdout.split()[-1] == "autoprune"


def test_what_is_installed_is_what_ci_installs():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert set(BY_CI) <= set(script)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (within,) = (re.search(r"\[(.*)\]", one)[1].split(",") for one in extras["test"] if one.startswith("autoprune["))
    asked = {extra for line in (*BY_CI, *OTHERS) for extra in re.findall(r'pip install "\.\[(\w+)\]"', line)}
    assert asked - {"test"} <= set(within)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The files of autoprune, as a clone has them."""
    folder = tmp_path_factory.mktemp("clone") / "autoprune"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.is_dir() and path.name in ("autoprune", "conf", "envs", "tests", ".ci"):
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file() and path.name != ".git":  # In a linked work tree it is a file.
            shutil.copy(path, folder)
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@long
@pytest.mark.parametrize("line", IN_A_COPY)
def test_commands_on_the_files_of_autoprune(line, copy, programs):
    if line == "pre-commit install" and not shutil.which("git"):
        pytest.skip("there is no git")
    words = [*shlex.split(line), *IN_A_COPY[line]]
    environment = {name: value for name, value in programs.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(copy)
    # `python` is the one that runs this.
    words[:1] = [sys.executable] if words[0] == "python" else [sys.executable, "-m", words[0].replace("-", "_")]
    done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    if line == "pre-commit install":
        assert os.access(copy / ".git" / "hooks" / "pre-commit", os.X_OK)
    elif line.startswith("pytest"):
        assert re.search(r"[1-9]\d* passed", done.stdout)
    else:  # They renew what is kept, which is as they make it.
        for kept in (Path("conf/README.md"), Path("README.md"), *results()):
            assert (copy / kept).read_text() == (ROOT / kept).read_text(), kept


def results():
    """What the scripts of tables and of cells write."""
    place = ROOT / "tests" / "benchmarks" / "results"
    return [path.relative_to(ROOT) for path in (*place.glob("cells*.json"), place / "RESULTS.md")]


# ------------------------------------------------------------------ from Python


@long
def test_the_block_of_python_runs(home):
    """In a program of its own that has a model and arrays, as the block takes for granted, and few evaluations."""
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    given = """
        import keras, numpy as np
        from autoprune.pipeline import search
        from autoprune.settings import *

        search.SearchSettings = lambda: SearchSettings(
            search=LimitsSettings(evaluations=2),
            training=TrainingSettings(epochs=1, fine_tune_epochs=1),
            evaluation=EvaluationSettings(tuning_steps=2),
            constraints=Constraints(multiple_of=8),
        )
        model = keras.saving.load_model("my.keras")
        whole = model.count_params()
        arrays = np.load("my.npz")
        x_train, y_train, x_test, y_test = (arrays[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    """
    seen = """
        assert groups and branches
        assert report and cost.latency > 0 and step.fits
        assert result.model is model and model.count_params() < whole
    """
    program = "\n".join([*(re.sub(r"^ {8}", "", part, flags=re.MULTILINE) for part in (given, block, seen))])
    done = subprocess.run([sys.executable, "-c", program], cwd=home, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert keras.saving.load_model(home / "small.keras").count_params() > 0
