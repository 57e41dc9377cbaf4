"""Workers on a real Ray cluster of two nodes: asked, lost with their nodes or alone, replaced, refused."""

import os
import signal
from concurrent.futures import wait

import pytest
import ray

from autoprune.errors import SettingsError, WorkerError
from autoprune.settings import RaySettings
from autoprune.workers import WorkerPool
from autoprune.workers.ray_worker import RayWorker, connect
from helpers.processes import gone, wait_until

WAIT = 120
# Ray leaves sockets and files to the garbage collector.
pytestmark = [pytest.mark.slow, pytest.mark.subprocess, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture
def make(cluster):
    """Makes pools on the cluster, which are closed at the end of the test."""
    pools = []

    def make_pool(count, opening=None, files=None, timeout=None):
        def worker():
            return RayWorker(
                "helpers.echoing_child",
                name="echoing actor",
                opening=opening or {"do": "echo"},
                files={name: ray.put(content) for name, content in (files or {}).items()},
                resources={"CPU": 1},
                environment={"MARK": "here"},
            )

        pools.append(
            WorkerPool(
                worker,
                count,
                bytes_each=0,
                task="echo",
                error=lambda message, task: WorkerError(f"{task}: {message}"),
                read=lambda answer: answer,
                timeout=timeout,
            )
        )
        return pools[-1]

    with connect(RaySettings(address=cluster.address, resources={"CPU": 1.0})) as count:
        assert count == 2, "one for each CPU there is"
        yield make_pool
        for pool in pools:
            pool.close()


def submit(pool, do="echo", value=None):
    return pool.submit({"do": do, "value": value})


def test_actors_answer_in_turns(make):
    pool = make(2)
    seen = set()
    for _ in range(50):  # One actor may start long after the other.
        seen |= {answer.result(WAIT)["process"] for answer in [submit(pool, "sleep", 0.2) for _ in range(6)]}
        if len(seen) == 2:
            break
    assert len(seen) == 2
    assert len(pool.process_ids) == 2
    assert [submit(pool, value=number).result(WAIT)["value"] for number in range(9)] == list(range(9))


def test_an_actor_that_is_killed_is_replaced_and_what_it_had_in_hand_is_asked_again(make):
    pool = make(2)
    wait([submit(pool, "sleep", 0.2) for _ in range(4)])
    victims = pool.process_ids
    answers = [submit(pool, "sleep", 1) for _ in range(4)]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert [answer.result(WAIT)["value"] for answer in answers] == [1] * 4
    assert all(map(gone, victims))


def test_actors_that_are_lost_while_they_wait_cost_no_request_its_life(make):
    pool = make(2)
    wait([submit(pool, "sleep", 0.2) for _ in range(4)])
    victims = pool.process_ids
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert wait_until(lambda: all(map(gone, victims)))
    assert [submit(pool, value=number).result(WAIT)["value"] for number in range(3)] == [0, 1, 2]
    assert not set(pool.process_ids) & set(victims)


def test_a_request_that_ends_every_actor_fails_alone(make):
    pool = make(1)
    with pytest.raises(WorkerError, match=r"echo: The echoing actor died 2 times before it could echo. Its last words"):
        submit(pool, "die").result(WAIT)
    with pytest.raises(WorkerError, match="the cause"):
        submit(pool, "raise").result(WAIT)
    assert submit(pool, value=5).result(WAIT)["value"] == 5


def test_a_request_that_takes_too_long_ends_its_actor(make):
    pool = make(1, timeout=1)
    with pytest.raises(WorkerError, match=r"took longer than 1 s to echo"):
        submit(pool, "sleep", 300).result(WAIT)
    assert submit(pool, value=5).result(WAIT)["value"] == 5


def test_an_actor_that_cannot_load_says_why(make):
    pool = make(1, opening={"do": "refuse", "value": "there is nothing to load"})
    with pytest.raises(WorkerError, match="get ready: The echoing actor could not get ready: there is nothing to load"):
        submit(pool).result(WAIT)


def test_a_node_that_leaves_takes_no_request_with_it_and_one_that_joins_is_used(make, cluster):
    pool = make(3)
    third = cluster.add_node(num_cpus=1)
    busy = [submit(pool, "sleep", 0.5) for _ in range(9)]
    assert wait_until(lambda: len(pool.process_ids) == 3, WAIT)
    before = set(pool.process_ids)
    answers = [submit(pool, "sleep", 1) for _ in range(9)]
    cluster.remove_node(third)
    assert [answer.result(WAIT)["value"] for answer in answers] == [1] * 9
    assert all(answer.result(WAIT) for answer in busy)
    # There is room for two: the third waits for a node.
    assert wait_until(lambda: len(pool.process_ids) == 2, WAIT)
    fourth = cluster.add_node(num_cpus=1)
    assert wait_until(lambda: len(pool.process_ids) == 3, WAIT)
    assert set(pool.process_ids) != before
    assert submit(pool, value=5).result(WAIT)["value"] == 5
    pool.close()
    cluster.remove_node(fourth)


def test_closing_ends_actors_that_work_and_those_that_wait_for_room(make):
    pool = make(4)
    answers = [submit(pool, "sleep", 300) for _ in range(4)]
    assert wait_until(lambda: len(pool.process_ids) == 2, WAIT)
    processes = pool.process_ids
    pool.close()
    for answer in answers:
        with pytest.raises(WorkerError, match="was closed before it could echo"):
            answer.result(WAIT)
    assert wait_until(lambda: all(map(gone, processes)))


def test_an_address_where_nobody_answers_is_named():
    with (
        pytest.raises(SettingsError, match=r"No Ray cluster answers at ray\.address=127\.0\.0\.1:1: .*ray start"),
        connect(RaySettings(address="127.0.0.1:1")),
    ):
        pass


def test_without_an_address_no_cluster_of_somebody_else_is_joined(cluster):
    with connect(RaySettings()):
        assert ray.get_runtime_context().gcs_address != cluster.address
