"""Curves are read back by TensorBoard; a run that goes on has each of them once."""

import math
from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from autoprune.reporting.console import BestSoFar, stage, training_stage
from autoprune.reporting.curves import Curves
from helpers import toy
from helpers.events import curves_in, trackers_in


def search(folder, ratios):
    """The course of a search with these flat keep ratios, of which those up to a half are within the budget."""
    objective = toy.problem().objective
    course = [toy.evaluation_of(ratio) for ratio in ratios]
    course[0] = replace(course[0], score=math.nan, error="it failed")
    curves = Curves(trackers_in(folder), "search", "rl@0.5/0")
    with curves, stage("rl", len(ratios), "evaluations") as shown:
        observe = BestSoFar(shown, objective, curves)
        for number, evaluation in enumerate(course, start=1):
            observe(evaluation, number)
    return objective, course, curves_in(folder / "search" / "rl@0.5-0")


def test_a_search_by_evaluation(tmp_path):
    objective, course, found = search(tmp_path, [0.75, 0.625, 0.25, 0.5, 0.375])
    assert [step for step, _ in found["search/reward"]] == [1, 2, 3, 4, 5]
    assert [value for _, value in found["search/reward"]] == pytest.approx([objective.reward(e) for e in course])
    assert dict(found["search/latency"]) == pytest.approx({n: e.cost.latency for n, e in enumerate(course, start=1)})
    # The first one failed; of the others those within the budget count.
    assert [step for step, _ in found["search/score"]] == [2, 3, 4, 5]
    best = [course[2].score, course[3].score, course[3].score]
    assert dict(found["search/best score"]) == pytest.approx(dict(zip((3, 4, 5), best, strict=True)))
    assert dict(found["search/best latency"]) == pytest.approx({3: 0.25, 4: 0.5, 5: 0.5})


def test_a_search_that_is_resumed_has_each_evaluation_once(tmp_path):
    search(tmp_path, [0.5, 0.25])
    _, _, found = search(tmp_path, [0.5, 0.25, 0.375, 0.125])
    assert [step for step, _ in found["search/reward"]] == [1, 2, 3, 4]
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1


def test_a_training_by_epoch(tmp_path):
    """Loss and accuracy of every epoch, the accuracy of the start too; what never began leaves nothing."""
    with training_stage("tune", 2, Curves(trackers_in(tmp_path), "training", "rl 1/2")) as show:
        show(0.0, {"val_accuracy": 0.25})
        for done, loss in ((0.5, 3.0), (1.0, 2.0), (1.5, 1.5)):
            show(done, {"loss": loss, **({"val_accuracy": 0.5} if done == 1 else {})})
        show(2.0, {"loss": 1.0, "val_accuracy": 0.75})
    found = curves_in(tmp_path / "training" / "rl 1-2")
    assert found == {"training/loss": [(1, 2.0), (2, 1.0)], "training/accuracy": [(0, 0.25), (1, 0.5), (2, 0.75)]}
    with training_stage("base model", 2, Curves(trackers_in(tmp_path), "training", "base model")):
        pass
    assert not (tmp_path / "training" / "base model").exists()


def test_settings_and_keep_ratios_are_read_by_the_plugins_of_tensorboard(tmp_path):
    objective = toy.problem().objective
    with Curves(
        trackers_in(tmp_path), "search", "rl", {"seed": 3, "agent.name": "ppo", "on": True, "none": None}
    ) as curves:
        for number, ratio in enumerate([0.5, 0.25], start=1):
            evaluation = toy.evaluation_of({"a": ratio, "b": 1.0, "c": 1.0, "d": ratio})
            curves.add_evaluation(evaluation, number, objective, None)
    events = EventAccumulator(str(tmp_path / "search" / "rl"), size_guidance={"histograms": 0})
    events.Reload()
    found = events.Histograms("search/keep ratios")
    assert [(event.step, event.histogram_value.num) for event in found] == [(1, 4), (2, 4)]
    limits = found[1].histogram_value.bucket_limit, found[1].histogram_value.bucket
    assert {round(limit, 2): count for limit, count in zip(*limits, strict=True) if count} == {0.3: 2, 1.0: 2}
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    assert (given["seed"].number_value, given["agent.name"].string_value, given["on"].bool_value) == (3, "ppo", True)
