"""`python -m autoprune.search`, as a user runs it."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import keras
import numpy as np
import pytest

from helpers import small_networks
from helpers.events import curves_in
from helpers.running import command, kill_after, run_in, started

# Few images and widths: it is trained and compiled for seconds.
SMALL = ["experiment=quick", "data.train_size=500", "training.epochs=3", "constraints.multiple_of=16"]
QUICK = [*SMALL, "search.evaluations=5", "search.finalists=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole search, for all tests that look at what it leaves."""
    return run_in(tmp_path_factory.mktemp("search"), *QUICK, fresh=True)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def course_of(folder, searcher="rl"):
    return [(e["key"], e["accuracy"]) for e in metrics_of(folder)["courses"][searcher]]


def test_the_run_folder_holds_everything(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert {"dense.keras", "pruned.keras", "plan.json", "policy", "evaluations.sqlite"} <= names
    assert {"report.html", "metrics.json", "tensorboard", "settings.json", "search.log"} <= names
    assert len(list((folder / "tensorboard" / "agent" / "rl").glob("events.out.tfevents*"))) == 1
    assert not {"trackers.json", "mlflow", "wandb"} & names  # Nobody asked for them.
    check_curves(folder)
    assert not [name for name in names if "partial" in name]


def check_curves(folder):
    """Every searcher by evaluation, every training by epoch: once each, as the figures have them."""
    metrics, board = metrics_of(folder), folder / "tensorboard"
    for name, course in metrics["courses"].items():
        found = curves_in(board / "search" / name)
        numbers = list(range(1, len(course) + 1))
        for tag in ("reward", "score", "latency"):
            assert [step for step, _ in found[f"search/{tag}"]] == numbers
        assert found["search/score"][-1][1] == pytest.approx(course[-1]["score"])
        best = max(row["score"] for row in course if row["cost"]["latency"] <= metrics["budget"]["latency"])
        assert found["search/best score"][-1][1] == pytest.approx(best)
    trainings = {path.name for path in (board / "training").iterdir()}
    assert {"uniform 1-2", "uniform 2-2"} <= trainings
    tuned = curves_in(board / "training" / "uniform 1-2")
    epochs = metrics["fine_tuning"]["uniform"]["epochs"]
    assert [step for step, _ in tuned["training/loss"]] == list(range(1, epochs + 1))
    assert [step for step, _ in tuned["training/accuracy"]] == list(range(epochs + 1))


def test_the_table_is_printed(finished):
    folder, done = finished
    for word in (
        "dense",
        "uniform",
        "rl",
        "test accuracy",
        "compiler estimate",
        "tpu_v5e",
        str(folder / "report.html"),
    ):
        assert word in done.stdout
    assert "Traceback" not in done.stderr
    # What it starts from, before anything is searched.
    assert re.search(
        r"dense: accuracy [\d.]+% on \d+ images .* Budget: at most [\d.]+ us \(70.0%\)", " ".join(done.stdout.split())
    )


def test_the_budget_is_met_by_the_saved_model(finished):
    from autoprune.cost import measure_cost
    from autoprune.models.files import load_model

    folder, _ = finished
    metrics = metrics_of(folder)
    cost = measure_cost(load_model(folder / "pruned.keras"), "tpu_v5e", 128)
    assert cost.latency <= metrics["budget"]["latency"]
    kept = next(row for row in metrics["rows"] if row["name"] == metrics["kept"])
    assert cost.latency == kept["cost"]["latency"]
    assert cost.parameters == kept["cost"]["parameters"]


def test_the_saved_accuracy_is_the_saved_models(finished, digits):
    from autoprune.evaluation.accuracy import accuracy

    folder, _ = finished
    metrics = metrics_of(folder)
    model = keras.saving.load_model(folder / "pruned.keras")
    kept = next(row for row in metrics["rows"] if row["name"] == metrics["kept"])
    assert accuracy(model, digits.test) == kept["test_accuracy"]


def test_the_plan_gives_the_pruned_shapes_again(finished):
    from autoprune.planning.plan_file import load_plan
    from autoprune.surgery import apply_plan

    folder, _ = finished
    dense = keras.saving.load_model(folder / "dense.keras")
    apply_plan(dense, load_plan(folder / "plan.json"))
    pruned = keras.saving.load_model(folder / "pruned.keras")
    assert [tuple(w.shape) for w in dense.weights] == [tuple(w.shape) for w in pruned.weights]


def test_of_two_finalists_the_better_after_fine_tuning_is_each_searchers_plan(finished):
    metrics = metrics_of(finished[0])
    rows = {row["name"]: row for row in metrics["rows"]}
    for name, course in metrics["courses"].items():
        finalists = metrics["finalists"][name]
        assert len(finalists) == 2
        assert {one["key"] for one in finalists} <= {evaluation["key"] for evaluation in course}
        best = max(finalists, key=lambda one: one["reward_accuracy"])
        assert rows[name]["reward_accuracy"] == best["reward_accuracy"]


def test_the_policy_can_be_loaded(finished):
    from autoprune.envs import ENV_ID
    from autoprune.envs.episode import FEATURES
    from autoprune.searchers.policy import load_policy

    policy = load_policy(finished[0] / "policy", FEATURES, ENV_ID)
    assert policy.record["evaluations"] == 5
    assert policy.act(np.zeros(len(FEATURES), np.float32)).shape == (1,)


def test_it_is_told_by_what_means_the_saved_plan_was_found(finished):
    metrics = metrics_of(finished[0])
    for name, course in metrics["courses"].items():
        assert len(metrics["means"][name]) == len(course)
    report = (finished[0] / "report.html").read_text()
    assert re.search(rf"It was evaluation \d+ of {len(metrics['courses'][metrics['kept']])}", report)


def test_guesses_of_cost_are_judged(finished):
    """On the plans of the search itself, each guessed before it was compiled."""
    guesses = metrics_of(finished[0])["guesses"]
    assert guesses["count"] >= 5
    assert guesses["latency"] < 0.15
    assert guesses["spearman"] > 0.5


def test_searchers_had_equal_evaluations(finished):
    courses = metrics_of(finished[0])["courses"]
    assert len(courses["rl"]) == 5
    assert len(courses["uniform"]) <= 5


def test_the_saved_model_needs_nothing_of_autoprune(finished, tmp_path, digits):
    """Load and predict in a Python that cannot import autoprune."""
    folder, _ = finished
    expected = keras.saving.load_model(folder / "pruned.keras").predict(digits.test.images, verbose=0)
    np.save(tmp_path / "images.npy", digits.test.images)
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('autoprune',)))\n"
        "import keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "np.save('out.npy', model.predict(np.load('images.npy'), verbose=0))\n"
        "assert all(type(layer).__module__.startswith('keras.') for layer in model.layers)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "pruned.keras")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_a_search_that_is_extended_is_the_longer_search(finished, tmp_path):
    """With the same seed; until then what it has found stays, and what it has scored is not scored again."""
    folder, _ = run_in(tmp_path, *SMALL, "search.finalists=2", "search.evaluations=3")
    assert len(course_of(folder)) == 3
    before = evaluations_in(folder)
    done = command(f"resume={folder}", "search.evaluations=5", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert course_of(folder) == course_of(finished[0])
    for name in ("rows", "plans"):
        assert metrics_of(folder)[name] == metrics_of(finished[0])[name]
    assert before.items() <= evaluations_in(folder).items()
    assert json.loads((folder / "settings.json").read_text())["search"]["evaluations"] == 5


def evaluations_in(folder):
    with closing(sqlite3.connect(folder / "evaluations.sqlite")) as database:
        return dict(database.execute("SELECT key, record FROM evaluations"))


@pytest.mark.slow
def test_two_steered_searches_at_once(tmp_path, digits):
    """One cache, plans projected, widths learnt from the staircase: both end, with the same course, on legal widths."""
    path = small_networks.save_trained(small_networks.residual(), tmp_path / "residual.keras", digits)
    arguments = ["model=file", f"model.path={path}", "budget.latency=0.7", "search.evaluations=3", "search.finalists=1"]
    arguments += ["data.train_size=500", "training.fine_tune_epochs=1", "search.project=true"]
    arguments += ["constraints.widths=staircase", "constraints.staircase_points=3"]
    processes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        cache = {"AUTOPRUNE_CACHE": str(tmp_path / "cache")}
        processes.append(started(*arguments, cwd=tmp_path / name, environment=cache))
    for process in processes:
        said = process.communicate(timeout=900)
        assert process.returncode == 0, said
    one, two = (next(tmp_path.glob(f"{name}/outputs/search/*/*/metrics.json")).parent for name in ("one", "two"))
    assert course_of(one) == course_of(two)
    assert len(list(tmp_path.glob("cache/*.sqlite"))) == 1
    learnt = re.findall(r"(\w+) \[([\d, ]+)\]", (one / "search.log").read_text().split("widths worth having: ")[1])
    allowed = {name: {int(width) for width in widths.split(", ")} for name, widths in learnt}
    for evaluation in metrics_of(one)["courses"]["rl"]:
        assert all(width in allowed[name] for name, width in evaluation["widths"].items())


def test_killed_and_resumed_search_equals_the_uninterrupted_one(finished, tmp_path):
    kill_after(started(*QUICK, cwd=tmp_path), lambda: evaluations_below(tmp_path) >= 8)
    (folder,) = [p.parent for p in tmp_path.glob("outputs/search/*/*/.hydra")]
    assert not (folder / "metrics.json").exists()
    done = command(f"resume={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    check_curves(folder)
    assert course_of(folder) == course_of(finished[0])
    assert metrics_of(folder)["rows"] == metrics_of(finished[0])["rows"]


def evaluations_below(folder):
    return sum(map(count_evaluations, folder.glob("outputs/search/*/*/evaluations.sqlite")))


def count_evaluations(journal):
    try:
        with sqlite3.connect(journal) as database:
            return database.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0]
    except sqlite3.Error:
        return 0


@pytest.mark.slow
def test_ctrl_c_says_where_and_how_to_go_on(tmp_path):
    process = started(*QUICK, cwd=tmp_path)
    said = kill_after(process, lambda: evaluations_below(tmp_path) >= 3, sign=signal.SIGINT)
    assert process.returncode == 130
    assert "Interrupted. Every evaluation so far is in" in said
    assert "python -m autoprune.search resume=" in said
    assert "Traceback" not in said


def test_resume_takes_no_other_option(finished):
    done = command(f"resume={finished[0]}", "seed=9", cwd=finished[0].parents[3])
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "give resume=FOLDER alone, or with search.evaluations, workers, ray.address, ray.actors" in said
    assert "beside it. Received: seed" in said


def test_search_that_has_ended_is_not_done_again(finished, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in finished[0].iterdir() if path.name not in (".lock", ".hydra")}
    done = command(f"resume={finished[0]}", cwd=tmp_path)
    assert done.returncode == 0
    assert f"This search has ended: its report is {finished[0]}/report.html" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


# ------------------------------------------------------------------ a user's own model and data


@pytest.fixture(scope="module")
def own_files(tmp_path_factory, digits):
    """A model trained and saved by plain Keras, and arrays in an .npz file."""
    folder = tmp_path_factory.mktemp("own")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    model.fit(digits.train.images, digits.train.labels, epochs=4, verbose=0)
    model.save(folder / "X.keras")
    np.savez(
        folder / "Y.npz",
        x_train=digits.train.images,
        y_train=digits.train.labels,
        x_test=digits.test.images,
        y_test=digits.test.labels,
    )
    return folder


@pytest.mark.slow
def test_own_model_and_data(own_files, tmp_path):
    arguments = ["model=file", f"model.path={own_files}/X.keras", "data=npz", f"data.path={own_files}/Y.npz"]
    folder, _ = run_in(
        tmp_path, *arguments, "search.evaluations=3", "training.fine_tune_epochs=1", "budget.latency=0.95"
    )
    dense, *pruned = metrics_of(folder)["rows"]
    assert dense["test_accuracy"] > 0.9
    assert len(pruned) == 2
    for row in pruned:
        assert row["cost"]["parameters"] < dense["cost"]["parameters"]
        assert row["cost"]["latency"] <= 0.95 * dense["cost"]["latency"]


# ------------------------------------------------------------------ bad input


BAD_INPUT = [
    (["model=vgg17"], "There is no model 'vgg17'. Did you mean vgg16?"),
    (["agent=sacc"], "There is no agent 'sacc'. Did you mean sac?"),
    (["search.evalutions=3"], "There is no option 'search.evalutions'. Did you mean search.evaluations"),
    (["traget=tpu_v3"], "There is no option 'traget'. Did you mean target"),
    (["reward.name=acuracy_within_budget"], "There is no reward 'acuracy_within_budget'. Did you mean"),
    (["+agent.options.lerning_rate=1"], "do not fit dyna_ppo: 'lerning_rate'. Did you mean 'learning_rate'?"),
    (["model.path=X.keras"], "model.path must be given with model=file; model=small_resnet does not read it"),
    (["data.path=Y.npz"], "data.path must be given with data=npz; data=digits does not read it"),
    (["target=all"], "target=all is for `python -m autoprune.measure`"),
    (["budget.latency=1.5"], "budget.latency must be a share"),
    (["budget.latency=200"], "an amount (200us, 0.3ms), or null. Received: 200"),
    (["budget.latency=200MiB"], "There is no unit 'MiB' for it"),
    (["budget.latency=0"], "budget.latency must be a share of the dense model's, above 0"),
    (["budget.latency=-0.5"], "budget.latency must be a share of the dense model's, above 0"),
    (["budget.memory=12"], "an amount (12MiB, 500kB), or null. Received: 12"),
    (["reward.accuracy_floor=1.2"], "reward.accuracy_floor must be a share of the dense model's score"),
    (["target=tpu_v5e", "target.also=[tpu_v3]", "budget.latency=200us"], "means something else on every target"),
    (["target=tpu_v5e", "target.also=[tpu_v33]"], "There is no target 'tpu_v33'. Did you mean 'tpu_v3'"),
    (["budget.latency=null"], "budget must be a latency or memory limit"),
    (["search.evaluations=0"], "search.evaluations must be 1 or more. Received: 0"),
    (["search.evaluations=many"], "The option 'search.evaluations' has a wrong value"),
    (["target.batch_size=0"], "target.batch_size must be 1 or more"),
    (["target.dtype=bf16"], "There is no dtype 'bf16'. Did you mean 'bfloat16'"),
    (["model=file"], "model=file needs model.path"),
    (["model=file", "model.path=none.keras"], "There is no file 'none.keras'"),
    (["data=npz", "data.path=none.npz"], "There is no file 'none.npz'"),
    (["data=fashion_mnist", "data.dir=nowhere"], "There is no file 'nowhere/train-images"),
    (["resume=nowhere"], "'nowhere' is not a run folder that can be resumed"),
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What each of the bad inputs is answered, and the folder in which."""
    folder = tmp_path_factory.mktemp("bad")
    return folder, [command(*arguments, cwd=folder) for arguments, _ in BAD_INPUT]


@pytest.mark.parametrize("number", range(len(BAD_INPUT)), ids=[message for _, message in BAD_INPUT])
def test_bad_input_gets_a_clear_error(refusals, number):
    done = refusals[1][number]
    assert done.returncode == 2
    said = " ".join((done.stdout + done.stderr).split())
    assert BAD_INPUT[number][1] in said
    assert "Traceback" not in said


def test_a_refused_command_ends_with_status_2(tmp_path):
    """As a process of its own, and without a line that does not belong to the message."""
    done = command("budget.latency=0", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("SettingsError: budget.latency must be a share of the dense model's, above 0")
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_refused_before_anything_was_computed_leaves_no_folder(refusals):
    folder, _ = refusals
    assert not list(folder.iterdir())


def test_corrupt_model_file(tmp_path, own_files):
    content = (own_files / "X.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    done = command("model=file", "model.path=cut.keras", cwd=tmp_path)
    assert done.returncode == 2
    assert "'cut.keras' is damaged, or not whole (File is not a zip file). Fetch it again" in done.stderr


def test_data_that_do_not_fit_the_model(tmp_path, own_files):
    np.savez(tmp_path / "wide.npz", x=np.zeros((40, 9, 9, 1)), y=np.arange(40) % 10)
    arguments = ["model=file", f"model.path={own_files}/X.keras", "data=npz", "data.path=wide.npz"]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "have shape (9, 9, 1), the model 'sequential" in done.stderr
    assert "takes (8, 8, 1)" in done.stderr


@pytest.mark.slow
def test_budget_below_what_is_possible_names_the_range(tmp_path):
    done = command(*SMALL, "budget.latency=0.01", cwd=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "latency 0.01 was asked for, 0." in said
    assert "to 1 is possible" in said
