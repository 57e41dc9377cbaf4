"""`python -m autoprune.learn` and `python -m autoprune.replay`, as a user runs them: one policy, networks new to it."""

import json
import shutil
import sqlite3

import pytest

from helpers import small_networks
from helpers.running import command, kill_after, run_in, started

# Few images, layers and widths, so that what is trained, traced and compiled is.
QUICK = ["data.train_size=500", "training.epochs=1", "training.fine_tune_epochs=1", "constraints.multiple_of=32"]
REPLAY = ["budget.latency=0.8", *QUICK]


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    """A network to learn on, and one of another topology."""
    folder = tmp_path_factory.mktemp("files")
    for network in (small_networks.residual(), small_networks.dense_block()):
        small_networks.save_trained(network, folder / f"{network.name}.keras", digits)
    return folder


@pytest.fixture(scope="module")
def learn(files):
    """How a policy is learnt on a network that is trained first and on one of a file."""
    return [f"models=[plain_cnn,{files}/residual.keras]", "latencies=[0.85]", "search.evaluations=3", *QUICK]


@pytest.fixture(scope="module")
def other(files):
    """A network that the policy does not know."""
    return ["model=file", f"model.path={files}/dense_block.keras"]


@pytest.fixture(scope="module")
def adapt(other):
    """How a policy is adapted with two evaluations, beside a search from scratch."""
    return [*other, "replay.evaluations=2", "replay.scratch=true", *REPLAY]


@pytest.fixture(scope="module")
def learnt(learn, tmp_path_factory):
    """A policy of two networks."""
    return run_in(tmp_path_factory.mktemp("learn"), *learn, module="learn", fresh=True)


@pytest.fixture(scope="module")
def adapted(learnt, adapt, tmp_path_factory):
    """The policy on a network of another topology."""
    return run_in(tmp_path_factory.mktemp("replay"), f"policy={learnt[0]}/policy", *adapt, module="replay", fresh=True)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def keys_of(folder):
    return {name: [e["key"] for e in course] for name, course in metrics_of(folder)["courses"].items()}


# ------------------------------------------------------------------ learning on several networks


def test_every_network_is_learnt_on(learnt):
    folder, done = learnt
    lessons = metrics_of(folder)["lessons"]
    assert [(lesson["model"], lesson["budget"]) for lesson in lessons] == [
        ("plain_cnn", "0.85"),
        ("residual", "0.85"),
    ]
    for lesson in lessons:
        assert len(lesson["course"]) == len(lesson["means"]) == 3
        limit = float(lesson["budget"]) * lesson["dense"]["cost"]["latency"]
        assert lesson["uniform"]["cost"]["latency"] <= limit
        for plan in (lesson["policy"], lesson["best"]):
            assert plan is None or plan["cost"]["latency"] <= limit
    assert f"python -m autoprune.replay policy={folder}/policy" in done.stdout


def test_the_policy_says_what_it_was_learnt_on(learnt, files):
    meta = json.loads((learnt[0] / "policy" / "policy.json").read_text())
    record = meta["record"]
    assert record["models"] == ["plain_cnn", f"{files}/residual.keras"]
    assert [budget["latency"] for budget in record["budgets"]] == [0.85]
    assert (record["agent"], record["data"], record["seed"], record["evaluations"]) == ("dyna_ppo", "digits", 0, 3)
    assert {"keras", "stable-baselines3", "autoprune"} <= record["versions"].keys()


def test_a_killed_training_goes_on_to_the_policy_of_a_longer_one(learnt, learn, tmp_path):
    process = started(*learn, "search.evaluations=2", module="learn", cwd=tmp_path)
    # Two dense models and some plans.
    kill_after(process, lambda: sum(map(evaluations_in, tmp_path.glob("outputs/learn/*/*/*/evaluations.sqlite"))) >= 4)
    (folder,) = [p.parent for p in tmp_path.glob("outputs/learn/*/*/.hydra")]
    assert not (folder / "policy").exists()
    done = command(f"resume={folder}", "search.evaluations=3", module="learn", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for lesson, other in zip(metrics_of(folder)["lessons"], metrics_of(learnt[0])["lessons"], strict=True):
        assert [e["key"] for e in lesson["course"]] == [e["key"] for e in other["course"]]
    weights = [(place / "policy" / "actor.safetensors").read_bytes() for place in (folder, learnt[0])]
    assert weights[0] == weights[1]


def evaluations_in(journal):
    try:
        with sqlite3.connect(journal) as database:
            return database.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0]
    except sqlite3.Error:
        return 0


# ------------------------------------------------------------------ replaying


def test_zero_shot_on_another_network_and_target_is_one_evaluation_within_the_budget(learnt, files, other, tmp_path):
    given = [f"policy={learnt[0]}", *other, "target=tpu_v3", "target.batch_size=256"]
    folder, done = run_in(tmp_path, *given, *REPLAY, module="replay")
    metrics = metrics_of(folder)
    counts = {name: len(course) for name, course in metrics["courses"].items()}
    assert counts == {"uniform": 1, "uniform_depth_width": 1, "replay": 1}
    dense, *pruned = metrics["rows"]
    assert dense["cost"]["target"]["name"] == "tpu_v3"
    for row in pruned:
        assert row["cost"]["latency"] <= 0.8 * dense["cost"]["latency"]
    assert f"learntonplain_cnn,{files}/residual.keras" in "".join(done.stdout.split())
    # Nothing was learnt: the policy is the one that was given.
    weights = [(place / "policy" / "actor.safetensors").read_bytes() for place in (folder, learnt[0])]
    assert weights[0] == weights[1]


def test_adapting_has_as_many_evaluations_as_a_search_from_scratch(adapted):
    folder, done = adapted
    metrics = metrics_of(folder)
    counts = {name: len(course) for name, course in metrics["courses"].items()}
    assert counts == {"uniform": 3, "uniform_depth_width": 3, "rl": 3, "replay": 3}
    assert metrics["means"]["replay"][0] in ("replayed", "anchor")
    assert [row["name"] for row in metrics["rows"]] == ["dense", "uniform", "uniform_depth_width", "rl", "replay"]
    for word in ("uniform", "rl", "replay", "accuracy", f"{folder}/report.html"):
        assert word in done.stdout
    assert {"pruned.keras", "plan.json", "report.html", "evaluations.sqlite"} <= {p.name for p in folder.iterdir()}


def test_adapting_knows_nothing_of_what_the_search_from_scratch_learnt(adapted, adapt, learnt, tmp_path):
    alone = [argument for argument in adapt if argument != "replay.scratch=true"]
    folder, _ = run_in(tmp_path, f"policy={learnt[0]}/policy", *alone, module="replay")
    assert keys_of(folder)["replay"] == keys_of(adapted[0])["replay"]


def test_an_adapted_policy_is_stored_as_its_own_agents(adapted, learnt):
    folder = adapted[0]
    record = json.loads((folder / "policy" / "policy.json").read_text())["record"]
    assert record["agent"] == "dyna_ppo"
    assert record["models"] == ["dense_block"]
    weights = [(place / "actor.safetensors").read_bytes() for place in (folder / "policy", folder / "replayed_policy")]
    assert weights[0] != weights[1]
    assert weights[1] == (learnt[0] / "policy" / "actor.safetensors").read_bytes()


def test_a_killed_replay_goes_on_for_longer_without_the_policy_it_was_given(adapted, adapt, learnt, tmp_path):
    shutil.copytree(learnt[0] / "policy", tmp_path / "given")
    process = started(f"policy={tmp_path}/given", *adapt, "replay.evaluations=1", module="replay", cwd=tmp_path)
    kill_after(process, lambda: sum(map(evaluations_in, tmp_path.glob("outputs/replay/*/*/evaluations.sqlite"))) >= 4)
    shutil.rmtree(tmp_path / "given")
    (folder,) = [p.parent for p in tmp_path.glob("outputs/replay/*/*/.hydra")]
    done = command(f"resume={folder}", "replay.evaluations=2", module="replay", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert keys_of(folder) == keys_of(adapted[0])
    assert metrics_of(folder)["rows"] == metrics_of(adapted[0])["rows"]
    again = command(f"resume={folder}", module="replay", cwd=tmp_path)
    assert "This replay has ended" in again.stdout


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("replay", [], "policy must be the folder of a policy"),
        ("replay", ["policy=best_model.zip"], "archives of Stable-Baselines3 hold pickles and are not read"),
        ("replay", ["policy=cut", "replay.evaluations=2"], "The policy in 'cut' cannot be read"),
        ("learn", ["models=[plain_cnm]"], "There is no model 'plain_cnm'. Did you mean 'plain_cnn'"),
        ("search", ["model=[plain_cnn,vgg16]"], "python -m autoprune.learn models=[plain_cnn,vgg16]"),
    ],
)
def test_bad_input_gets_a_clear_error(learnt, tmp_path, module, arguments, message):
    (tmp_path / "best_model.zip").write_bytes(b"PK")
    shutil.copytree(learnt[0] / "policy", tmp_path / "cut")
    whole = (tmp_path / "cut" / "actor.safetensors").read_bytes()
    (tmp_path / "cut" / "actor.safetensors").write_bytes(whole[: len(whole) // 2])
    done = command(*arguments, module=module, cwd=tmp_path)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert message in said, said
    assert "Traceback" not in said


def test_a_budget_that_the_new_model_cannot_meet_is_answered_with_what_is_possible(adapted, adapt, learnt):
    done = command(f"policy={learnt[0]}", *adapt, "budget.latency=0.01", module="replay", cwd=adapted[0].parents[3])
    assert done.returncode == 2
    assert "0.01 was asked for" in done.stderr
    assert "is possible" in done.stderr
