"""Tables and what is said of a search: right figures."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from autoprune.records import Budget
from autoprune.reporting.outcome import Outcome, verdict
from autoprune.reporting.tables import (
    ResultRow,
    byte_count,
    opening_words,
    result_caption,
    result_cells,
    result_columns,
    result_table,
    seconds,
    shares,
)
from autoprune.settings import SearcherSettings, SearchSettings
from autoprune.training.course import TrainingRecord
from helpers import toy


def row(name, ratio, accuracy, cost=None):
    evaluation = toy.evaluation_of(ratio)
    return ResultRow(
        name=name,
        test_accuracy=accuracy,
        reward_accuracy=accuracy,
        one_shot_accuracy=evaluation.accuracy,
        cost=cost or evaluation.cost,
        keep_ratio=ratio,
    )


DENSE = toy.evaluation_of(1.0)
ROWS = [row("dense", 1.0, 0.98), row("uniform", 0.5, 0.97), row("rl", 0.25, 0.96)]


def test_shares_are_of_the_dense_model():
    headers = [column.header for column in result_columns(ROWS)][:4]
    cells = [dict(zip(headers, cell[:4], strict=True)) for cell in result_cells(ROWS)]
    assert [cell["of dense"] for cell in cells] == ["100.0%", "50.0%", "25.0%"]
    assert cells[1]["test accuracy"] == "97.00%"


def test_a_model_has_a_line_for_each_of_several_targets():
    """Each with the figures of that target; what is the same on all stands once."""

    def joint(name, latency, other):
        cost = toy.evaluation_of(1.0).cost
        parts = {"tpu_v5e": replace(cost, latency=latency), "tpu_v3": replace(cost, target=other_target, latency=other)}
        combined = replace(cost, latency=9.0, parts=parts, provenance={"combined": "worst"})
        return row(name, 0.5, 0.97, combined)

    other_target = replace(toy.TARGET, name="tpu_v3")
    rows = [joint("dense", 1.0, 4.0), joint("rl", 0.5, 3.0)]
    cells = result_cells(rows)
    assert [line[0] for line in cells] == ["dense, tpu_v5e", "dense, tpu_v3", "rl, tpu_v5e", "rl, tpu_v3"]
    assert [line[3] for line in cells] == ["100.0%", "100.0%", "50.0%", "75.0%"]
    assert [line[1] for line in cells] == ["97.00%", "", "97.00%", ""]
    assert {len(line) for line in cells} == {len(result_columns(rows))}
    cells = result_cells([replace(done, branches=(3, 4)) for done in rows])
    assert [line[-1] for line in cells] == ["3 of 4", "", "3 of 4", ""]
    assert "on tpu_v5e (this host), tpu_v3 (this host)" in result_caption(rows[0].cost)
    assert shares(rows[1].cost, rows[0].cost, Budget(0.5)) == "100.0% of the dense latency (worst of 2 targets)"


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (60, "of dense, parameters, MFLOPs/image, channels"),
        (80, "MFLOPs/image, channels"),
        (128, None),
    ],
)
def test_the_result_table_drops_columns_before_it_breaks_a_row(width, left_out):
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system=None).print(result_table(ROWS))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[:4] for row in rows] == [list(cells[:4]) for cells in result_cells(ROWS)]
    said = " ".join(" ".join(lines).split())
    assert said.endswith(f"Left out at this width: {left_out}." if left_out else "taken once.")


def test_a_search_begins_with_what_it_starts_from():
    words = opening_words("net", DENSE, [Budget(0.5), Budget(None, 1500), Budget(0.25, 750)], "likelihood", 1234)
    for part in (
        "net, dense: accuracy 100.00% on 1,234 images of the reward split; 1.00 s per batch of 8",
        "on tpu_v5e (compiler estimate)",
        "Budget: at most 500.00 ms (50.0%); at most 0.00 MiB of HBM (50.0%); at most 250.00 ms (25.0%) and at most",
        "Score: likelihood, the geometric mean of the probabilities of the right classes, on these images",
    ):
        assert part in words
    assert "Budget: none." in opening_words("net", DENSE, [Budget()], "accuracy", 1)


def test_the_verdict_says_that_a_search_came_to_the_uniform_plan_and_that_training_made_it_worse():
    better = TrainingRecord(1, (1.0,), (0.9,), 1, "", 0.8)

    def done(name, ratio, training=better):
        evaluation = toy.evaluation_of(ratio)
        return SimpleNamespace(
            name=name,
            plan=SimpleNamespace(dropped=()),
            evaluation=evaluation,
            cost=evaluation.cost,
            test_accuracy=0.9,
            reward_accuracy=0.9,
            training=training,
        )

    def told(searched):
        finished = [done("dense", 1.0), done("uniform", 0.5), searched]
        settings = SearchSettings(searcher=SearcherSettings("rl"))
        return verdict(
            Outcome(
                settings=settings,
                target=toy.TARGET,
                problem=toy.problem(),
                groups=(),
                histories={},
                finished=finished,
                kept=searched,
                seconds=1.0,
            )
        )

    assert "The searched plan is the uniform plan" in told(done("rl", 0.5))
    other = told(done("rl", 0.25))
    assert "is the uniform plan" not in other
    assert "Against the best uniform plan" in other
    assert "only made it worse" not in other
    worse = TrainingRecord(1, (1.0,), (0.7,), 0, "", 0.8)
    assert "Fine-tuning only made it worse on the reward split: it is as it was pruned." in told(done("rl", 0.5, worse))


def test_without_a_limit_the_share_of_the_latency_is_told():
    assert shares(ROWS[1].cost, ROWS[0].cost, Budget()) == "50.0% of the dense latency"


def test_memory_that_is_unknown_is_a_dash():
    cost = ROWS[0].cost
    unknown = replace(ROWS[0], cost=replace(cost, memory=replace(cost.memory, total=None)))
    assert result_cells([unknown])[0][4:6] == ("-", "-")


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.5, "2.50 s"), (0.0025, "2.50 ms"), (61.5e-6, "61.5 us"), (None, "-"), (0.00099996, "1000.0 us")],
)
def test_durations_have_a_unit_that_fits(value, text):
    assert seconds(value) == text


def test_sizes_are_in_mebibytes():
    assert (byte_count(3 * 2**20), byte_count(None)) == ("3.00 MiB", "-")
