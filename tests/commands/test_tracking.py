"""MLflow and Weights & Biases have what TensorBoard has: real ones, on this machine, read back by their libraries."""

import json
import signal

import pytest

from helpers import small_networks
from helpers.events import curves_in
from helpers.finished_search import finished_search
from helpers.running import command, kill_after, run_in, started
from helpers.tracked import tracked_in

SMALL = (
    *("data.train_size=280", "training.fine_tune_epochs=2", "evaluation.tuning_steps=2", "budget.latency=0.8"),
    *("constraints.multiple_of=16", "constraints.depth=false", "target=tpu_v5e", "agent=td3", "search.evaluations=6"),
)


def told_of(notes):
    """How many steps of the agent both trackers have been told of; an episode has three."""
    noted = json.loads(notes.read_text()) if notes.exists() else {}
    return min(noted.get(name, {}).get("told", {}).get("agent/rl", 0) for name in ("mlflow", "wandb"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, digits):
    """A tracked search, interrupted, then resumed for one evaluation more: its folder, and what of it is where."""
    place = tmp_path_factory.mktemp("tracked")
    folder, network = place / "run", small_networks.residual()
    model = ("model=file", f"model.path={small_networks.save_trained(network, place / 'my.keras', digits)}")
    search = started(*model, *SMALL, "tracking.trackers=[mlflow,wandb]", f"hydra.run.dir={folder}")
    said = kill_after(search, lambda: told_of(folder / "trackers.json") >= 9, signal.SIGINT)
    assert "Interrupted" in said
    interrupted = tracked_in(folder)
    done = command(f"resume={folder}", "search.evaluations=7")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, interrupted, tracked_in(folder)


def each(found):
    return [found["mlflow"], found["wandb"]]


def test_every_evaluation_of_every_searcher_is_told_once(adapted):
    folder, _, found = adapted
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["courses"]) == {"uniform", "rl"}
    for name, course in metrics["courses"].items():
        for tracked in each(found):
            figures = tracked["figures"]
            scores = [[number, one["score"]] for number, one in enumerate(course, start=1)]
            assert figures[f"search/{name}/score"] == scores
            latencies = [[number, one["cost"]["latency"]] for number, one in enumerate(course, start=1)]
            assert figures[f"search/{name}/latency"] == latencies
            board = curves_in(folder / "tensorboard" / "search" / name)
            for figure in ("reward", "best score", "best reward", "best latency"):
                told = figures[f"search/{name}/{figure}"]
                assert dict(told) == pytest.approx(dict(board[f"search/{figure}"]), rel=1e-6)
        histograms = found["wandb"]["figures"][f"search/{name}/keep ratios/values"]
        assert [sum(counts) for _, counts in histograms] == [len(one["keep_ratios"]) for one in course]
    assert len(metrics["courses"]["rl"]) == 7


def test_every_training_is_told_by_epoch(adapted):
    folder, interrupted, found = adapted
    trainings = json.loads((folder / "metrics.json").read_text())["fine_tuning"]
    for tracked in each(found):
        figures = tracked["figures"]
        for name in ("uniform", "rl"):
            record, told = trainings[name], figures[f"training/{name}/accuracy"]
            assert [value for _, value in figures[f"training/{name}/loss"]] == pytest.approx(record["losses"])
            assert dict(told) == pytest.approx(dict(enumerate([record["start"], *record["accuracies"]])))
    for tracked in each(interrupted):
        assert [step for step, _ in tracked["figures"]["search/rl/score"]][:3] == [1, 2, 3]
        assert not [name for name in tracked["figures"] if name.startswith("training/")]


def test_what_the_agent_tells_is_there_by_its_steps(adapted):
    """Of its episodes: the last evaluation is the policy's own plan."""
    folder, _, found = adapted
    course = json.loads((folder / "metrics.json").read_text())["courses"]["rl"]
    for tracked in each(found):
        told = tracked["figures"]["agent/rl/plan/score"]
        steps = [step for step, _ in told]
        assert [value for _, value in told] == pytest.approx([one["score"] for one in course[:-1]])
        assert steps == sorted(set(steps))
        assert "agent/rl/train/critic_loss" in tracked["figures"]


def test_settings_are_parameters_and_what_came_of_it_is_told_at_the_end(adapted):
    folder, interrupted, found = adapted
    metrics = json.loads((folder / "metrics.json").read_text())
    final = {}
    for row in metrics["rows"]:
        final[f"final/{row['name']}/test accuracy"] = row["test_accuracy"]
        final[f"final/{row['name']}/reward accuracy"] = row["reward_accuracy"]
        final[f"final/{row['name']}/latency"] = row["cost"]["latency"]
        final[f"final/{row['name']}/memory"] = row["cost"]["memory"]["total"]
        final[f"final/{row['name']}/parameters"] = row["cost"]["parameters"]
    assert {name.split("/")[1] for name in final} == {"dense", "uniform", "rl"}
    for tracked, before in zip(each(found), each(interrupted), strict=True):
        assert tracked["final"] == final
        assert tracked["files"] == ["metrics.json", "plan.json", "report.html"]
        assert before["final"] == {}
        assert before["files"] == []
        assert tracked["parameters"]["agent.name"] == "td3"
        assert str(tracked["parameters"]["data.train_size"]) == "280"
        assert not [name for name in tracked["parameters"] if name.startswith("tracking")]
    # A parameter of MLflow keeps its value: what was asked for since is a tag.
    assert found["mlflow"]["parameters"]["search.evaluations"] == "6"
    assert found["mlflow"]["tags"]["search.evaluations"] == "7"
    assert found["wandb"]["parameters"]["search.evaluations"] == 7


def test_a_resumed_search_goes_on_in_the_same_run(adapted):
    folder, interrupted, found = adapted
    assert interrupted["mlflow"]["ended"] == "KILLED"
    assert interrupted["wandb"]["ended"] == [130]
    assert found["mlflow"]["ended"] == "FINISHED"
    assert found["wandb"]["ended"] == [130, 0]
    assert found["mlflow"]["run"] == interrupted["mlflow"]["run"]
    assert found["wandb"]["runs"] == 2 * interrupted["wandb"]["runs"]
    assert found["mlflow"]["group"] == "autoprune"
    assert found["wandb"]["group"] == 2 * ["autoprune"]
    assert found["mlflow"]["name"] == f"search {folder.parent.name}/run"


@pytest.mark.slow
def test_a_fine_tuning_is_tracked_under_the_names_that_are_asked_for(tmp_path):
    search = finished_search(tmp_path / "search")
    database = f"sqlite:///{tmp_path}/all.db"
    names = ("tracking.experiment=mine", "tracking.run_name=first")
    asked = ("tracking.trackers=[wandb]", *names, f"tracking.mlflow_uri={database}")
    folder, _ = run_in(tmp_path, f"run={search.path}", "cost=false", *asked, module="finetune")
    tracked = tracked_in(folder)
    assert set(tracked) == {"wandb"}
    assert not (tmp_path / "all.db").exists()
    found, metrics = tracked["wandb"], json.loads((folder / "metrics.json").read_text())
    assert (found["group"], found["name"], found["ended"]) == (["mine"], ["first"], [0])
    curves = json.loads((folder / "curves.json").read_text())
    told = found["figures"]["training/fine-tuning/accuracy"]
    assert dict(told) == pytest.approx(dict(zip(curves["epochs"], curves["reward_accuracies"], strict=True)))
    assert found["final"]["final/fine-tuned/test accuracy"] == metrics["test_accuracy"]
    assert found["final"]["final/fine-tuned/parameters"] == metrics["parameters"]
