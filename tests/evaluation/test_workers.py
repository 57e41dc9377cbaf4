"""Plans scored side by side by processes: the same as in one, whatever becomes of the processes."""

import json
import os
import signal
from concurrent.futures import wait
from contextlib import closing
from dataclasses import replace

import keras
import numpy as np
import pytest

from autoprune.cost import open_cost_model
from autoprune.data import load_data
from autoprune.errors import WorkerError
from autoprune.evaluation import Evaluator, Journal
from autoprune.evaluation.evaluator import plan_key
from autoprune.evaluation.scoring_pool import ScoringPool, automatic_workers, open_workers
from autoprune.models import zoo
from autoprune.planning import Planner
from autoprune.planning.plan_file import plan_to_json
from autoprune.records import Target
from autoprune.settings import (
    Constraints,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    RaySettings,
    SearchSettings,
    TargetSettings,
)
from autoprune.workers import ChildProcess, resources
from helpers import toy
from helpers.image_files import write_digits
from helpers.processes import gone

SETTINGS = EvaluationSettings(tuning_steps=3, recovery_images=64, recalibration_images=64)
DIGITS = DataSettings("digits", train_size=300, reward_size=100)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return zoo.build("small_resnet", (8, 8, 1), 10, width=0.25)


@pytest.fixture
def scored_by(tmp_path, scratch, network):
    """Makes evaluators of one network, with so many workers."""
    closers = []

    def make(workers, data=DIGITS, settings=SETTINGS):
        loaded, planner = load_data(data, ModelSettings("small_resnet")), Planner(network, constraints=Constraints(4))
        journal = Journal(tmp_path / f"{len(closers)}.sqlite", {})
        closers.append(journal)
        pool = None
        if workers > 1:
            asked = SearchSettings(ModelSettings("small_resnet"), data, evaluation=settings, workers=workers)
            pool = ScoringPool(workers, network, planner, loaded, asked)
            closers.insert(0, pool)
        return pool, Evaluator(
            network, planner, loaded, cost_model=toy.KnownCost(), journal=journal, settings=settings, workers=pool
        )

    yield make
    for each in closers:
        each.close()


def some(evaluator, count, seed=0):
    generator = np.random.default_rng(seed)
    return [evaluator.space.random(generator, 0.5) for _ in range(count)]


def told(evaluations):
    return [(e.key, e.score, e.accuracy, e.error, e.dropped) for e in evaluations]


def test_two_workers_score_as_one_process_does(scored_by):
    """To the bit, with branches that go, in the order asked for, and once where a plan is asked for twice."""
    settings = replace(SETTINGS, score="agreement")
    (_, alone), (pool, shared) = scored_by(1, settings=settings), scored_by(2, settings=settings)
    candidates = some(alone, 6)
    asked = [alone.space.full, *candidates, candidates[0]]
    expected = told(alone.evaluate_many(asked))
    assert len({score for _, score, *_ in expected}) > 4
    assert any(dropped for *_, dropped in expected)
    assert told(shared.evaluate_many(asked)) == expected
    assert len(pool.process_ids) == 2
    ids = pool.process_ids
    assert told(shared.evaluate_many(asked)) == expected, "of the journal"
    assert shared.evaluate(candidates[1], 1).score == alone.evaluate(candidates[1], 1).score, "another draw"
    pool.close()
    assert all(map(gone, ids))


def test_a_worker_that_is_killed_is_replaced_and_its_plan_scored_again(scored_by):
    (_, alone), (pool, shared) = scored_by(1), scored_by(2)
    candidates = some(alone, 6)
    found = shared.evaluate_many(candidates)
    first, victims = next(found), pool.process_ids
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert told([first, *found]) == told(alone.evaluate_many(candidates))
    assert not set(pool.process_ids) & set(victims)


def test_a_plan_that_ends_every_process_has_failed_and_the_others_are_scored(scored_by, monkeypatch):
    _, evaluator = scored_by(2)
    deadly, *others = some(evaluator, 4)
    plan, real = json.dumps(plan_to_json(evaluator.space.plan(deadly))), ChildProcess._exchange

    def exchange(self, running, request, *arguments):
        if plan in json.dumps(request):
            os.kill(self.id, signal.SIGKILL)
        return real(self, running, request, *arguments)

    monkeypatch.setattr(ChildProcess, "_exchange", exchange)
    failed, *found = evaluator.evaluate_many([deadly, *others])
    assert failed.failed
    assert "died 2 times before it could score the plan" in failed.error
    assert not any(evaluation.failed for evaluation in found)
    assert evaluator.evaluate(deadly).failed, "it is not tried again by this evaluator"


def test_what_is_done_by_then_is_in_the_journal_though_nobody_waited_for_it(scored_by):
    _, evaluator = scored_by(2)
    candidates = some(evaluator, 4)
    next(evaluator.evaluate_many(candidates))  # And whoever asked is gone.
    wait([future for begun in evaluator._begun.values() for future in begun.futures])
    evaluator.evaluate(some(evaluator, 1, seed=1)[0])
    keys = [plan_key(evaluator.space.plan(candidate)) for candidate in candidates]
    assert all(evaluator.journal.find(key) is not None for key in keys)


def test_images_that_are_read_as_needed_are_read_by_each_worker(scored_by, tmp_path):
    write_digits(tmp_path / "images" / "train", range(200))
    write_digits(tmp_path / "images" / "test", range(200, 230))
    data = DataSettings("image_folder", dir=str(tmp_path / "images"), image_size=[8, 8, 1], reward_size=50)
    settings = replace(SETTINGS, recovery="reconstruction")
    (_, alone), (_, shared) = scored_by(1, data, settings), scored_by(2, data, settings)
    candidates = some(alone, 2)
    assert told(shared.evaluate_many(candidates)) == told(alone.evaluate_many(candidates))


def test_workers_that_find_other_images_end_the_search(scored_by, tmp_path):
    write_digits(tmp_path / "images" / "train", range(200))
    write_digits(tmp_path / "images" / "test", range(200, 230))
    data = DataSettings("image_folder", dir=str(tmp_path / "images"), image_size=[8, 8, 1], reward_size=50)
    _, evaluator = scored_by(2, data)
    for path in sorted((tmp_path / "images" / "train").rglob("*.png"))[:3]:
        path.unlink()
    with pytest.raises(WorkerError, match=r"other images where it is loaded again.* workers=1"):
        list(evaluator.evaluate_many(some(evaluator, 2)))


@pytest.mark.slow
def test_actors_on_ray_score_and_cost_as_one_process_does(network, tmp_path, compiler):
    planner, data = Planner(network, constraints=Constraints(4)), load_data(DIGITS)
    target, ray = TargetSettings("tpu_v5e", 8), RaySettings(actors=2, resources={"CPU": 0.5})
    asked = SearchSettings(ModelSettings("small_resnet"), DIGITS, target, evaluation=SETTINGS, workers="ray", ray=ray)
    found = {}
    for settings in (asked, replace(asked, workers=1)):
        with (
            closing(open_cost_model(Target("tpu_v5e", 8), cache=None, client=compiler)) as cost_model,
            closing(Journal(tmp_path / f"{settings.workers}.sqlite", {})) as journal,
            open_workers(network, planner, data, settings) as workers,
        ):
            evaluator = Evaluator(
                network, planner, data, cost_model=cost_model, journal=journal, settings=SETTINGS, workers=workers
            )
            evaluations = list(evaluator.evaluate_many(some(evaluator, 3)))
            found[settings.workers] = [*told(evaluations), *(evaluation.cost for evaluation in evaluations)]
    assert found["ray"] == found[1]


@pytest.mark.parametrize(("cores", "gigabytes", "expected"), [(1, 64, 1), (2, 64, 1), (8, 64, 4), (8, 2.5, 2)])
def test_their_number_follows_cores_and_memory(monkeypatch, cores, gigabytes, expected):
    monkeypatch.setattr(resources, "usable_cores", lambda: cores)
    monkeypatch.setattr(resources, "available_memory", lambda: gigabytes * 2**30)
    assert automatic_workers() == expected


@pytest.mark.parametrize(("free", "expected"), [("81000", 4), ("5000", 2), ("300", 1), ("[N/A]", 1), (None, 1)])
def test_their_number_follows_the_memory_of_a_gpu(monkeypatch, tmp_path, free, expected):
    """Of one that is told of by a program in the place of NVIDIA's: there is none here."""
    monkeypatch.setattr(resources, "usable_cores", lambda: 8)
    monkeypatch.setattr(resources, "available_memory", lambda: 64 * 2**30)
    monkeypatch.setattr(resources, "has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setenv("PATH", str(tmp_path))
    if free is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n[ \"$1\" = --id=1 ] && echo '{free}'\n")
        program.chmod(0o755)
    assert automatic_workers() == expected
