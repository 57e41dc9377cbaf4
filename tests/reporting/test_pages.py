"""Pages of runs: what they say of what is saved, nothing fetched, everything escaped; what is missing is named."""

import copy
import dataclasses
import json
import math
import random
import re
from html.parser import HTMLParser

import pytest

from autoprune.cost.sweep import SweepRow
from autoprune.errors import DoesNotFitError, FolderError
from autoprune.evaluation.journal import Journal, evaluation_to_json
from autoprune.records import Evaluation
from autoprune.records.plain import from_plain, read_json, write_json
from autoprune.reporting.costs import CostRow
from autoprune.reporting.pages.build import join_pages, open_saved, page_of
from autoprune.reporting.pages.headline import headline, speed_words
from autoprune.reporting.pages.page import render
from autoprune.reporting.tables import ResultRow
from autoprune.settings import LearnSettings
from helpers import toy
from helpers.places import ROOT
from helpers.saved_search import saved_search

MOST = 3 * 2**20  # Bytes of a page.


class Reader(HTMLParser):
    """Words, what is fetched, and the tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.tags, self.words, self._skipped = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._skipped += tag in ("script", "style")
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "action") and not (value or "").startswith("#"):
                self.fetched.append((tag, value))

    def handle_endtag(self, tag):
        self._skipped -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._skipped:
            self.words += data.split()

    @property
    def text(self):
        return " ".join(self.words)


def read(path):
    return Reader(render(page_of(open_saved(path))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved_search(tmp_path_factory.mktemp("runs") / "search")


@pytest.fixture(scope="module")
def html(folder):
    return render(page_of(open_saved(folder.path)))


@pytest.fixture(scope="module")
def page(html):
    return Reader(html)


def test_a_page_is_one_file_that_fetches_nothing(html, page):
    assert page.fetched == []
    assert len(html.encode()) < MOST
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert not re.search(r"@import|url\(", styles)
    assert "default-src 'none'" in html


def test_what_a_page_is_given_is_escaped(html, page):
    assert "There are &lt;few&gt; images." in html
    assert "few" not in page.tags


def test_a_page_says_in_a_sentence_what_came_of_it(page):
    assert (
        "2.5 times as fast on a TPU v5e at batch 8 and 40 % of the memory, 1.0 points below the dense network; the "
        "best hand-set plan as fast loses 5.0 points." in page.text
    )
    assert "With 400 test images chance alone may make a difference of 3.2 points, and the one" in page.text
    assert "compiler estimate" in page.text


def test_a_page_has_every_part(page):
    for words in (
        "stage1_block1_conv1 Conv2D gone",
        "40.0% 40.0% gone",
        "94.00%",
        "rl 23, 1 failed",
        "The mean error of the latest 9 predictions of latency was 5.0%",
        "stage2_block1_conv1 channels is kept whole by the plan",
        "python -m autoprune.search budget.latency=0.4 'model.path=a b.keras'",
        "keras 3.15",
        "seed 0",
        "target.batch_size",
    ):
        assert words in page.text, words


def test_a_search_of_which_something_is_missing_shows_the_rest(tmp_path):
    folder = saved_search(tmp_path / "run")
    folder.network.unlink()
    page = read(folder.path)
    assert "There is no network.json: the page lacks the network as a picture, importance" in page.text
    assert "2.5 times as fast" in page.text
    assert "Every evaluation" in page.text
    folder.origin.unlink()
    folder.settings.unlink()
    page = read(folder.path)
    assert "There is no settings.json" in page.text
    assert "2.5 times as fast" in page.text


@pytest.mark.parametrize("name", ["predictions", "courses", "gone", "plans", "rows", "images", "branches"])
def test_a_part_that_cannot_be_read_is_named_and_the_rest_is_shown(tmp_path, name):
    folder = saved_search(tmp_path / "run", **{name: [{"bad": "data"}]})
    page = read(folder.path)
    assert "The page lacks" in page.text
    assert "How it was made" in page.text


def test_a_damaged_file_is_named(tmp_path):
    folder = saved_search(tmp_path / "run")
    folder.metrics.write_text(folder.metrics.read_text().replace("0.95", "0.99"))
    page = read(folder.path)
    assert "metrics.json cannot be read, so the page lacks results" in page.text
    assert "do not match its checksum" in page.text


def test_a_search_that_has_not_ended_shows_its_evaluations(tmp_path):
    folder = saved_search(tmp_path / "run")
    metrics = read_json(folder.metrics)
    folder.metrics.unlink()
    journal = Journal(folder.journal, {})
    course = [from_plain(Evaluation, one) for one in metrics["courses"]["rl"] if not one["error"]]
    dense = toy.evaluation_of(1.0)
    for number, one in enumerate([dense, *course], 1):
        journal.add(one)
        journal.add_request("rl", number, one.key)
    journal.close()
    page = read(folder.path)
    assert f"This search has not ended: {len(course) + 1} evaluations so far." in page.text
    assert "Every evaluation" in page.text
    assert "There is no metrics.json: the page lacks results, as of a search that has not ended." in page.text


def row(name, latency, accuracy, memory=1000):
    cost = toy.cost_report(latency, toy.Memory(1, 1, 1, memory))
    return ResultRow(
        name=name,
        test_accuracy=accuracy,
        reward_accuracy=accuracy,
        one_shot_accuracy=accuracy,
        cost=cost,
        keep_ratio=1.0,
    )


DENSE = row("dense", 1.0, 0.9)


@pytest.mark.parametrize(
    ("rows", "kept", "limits", "said"),
    [
        (
            [row("uniform", 0.5, 0.8), row("rl", 0.5, 0.9)],
            "rl",
            "latency",
            "; the best hand-set plan as fast loses 10.0",
        ),
        (
            [row("uniform", 0.4, 0.8), row("rl", 0.5, 0.9)],
            "rl",
            "latency",
            "within the budget, 2.5 times as fast, loses",
        ),
        (
            [row("uniform", 0.5, 0.95), row("rl", 0.5, 0.9)],
            "rl",
            "",
            "the best hand-set plan as fast gains 5.0 points.",
        ),
        ([row("rl", 0.5, 0.9)], "rl", "latency", "; no hand-set plan within the budget was found."),
        (
            [row("uniform", 0.5, 0.8)],
            "uniform",
            "latency",
            "best on the reward split, and rl found none within the budget.",
        ),
        ([row("uniform", 0.5, 0.8), row("rl", 0.5, 0.7)], "uniform", "", "and rl found one that loses 20.0 points."),
        (
            [row("uniform", 0.5, 0.8, 300), row("rl", 0.5, 0.9, 400)],
            "rl",
            "memory",
            "at 30 % of the memory, loses 10.0",
        ),
        (
            [row("uniform", 0.5, 0.8), row("rl", 0.5, 0.95)],
            "rl",
            "latency",
            "memory, 5.0 points above the dense network",
        ),
        (
            [row("uniform", 0.5, 0.8), row("rl", 1.25, 0.9)],
            "rl",
            "",
            "25 % slower on a TPU v5e at batch 8 and 100 % of",
        ),
        ([row("uniform", 0.5, 0.8), row("rl", 1.0, 0.9)], "rl", "", "As fast on a TPU v5e at batch 8"),
    ],
)
def test_the_headline_claims_what_its_figures_bear(rows, kept, limits, said):
    assert said in headline([DENSE, *rows], kept, "rl", same_plan=False, limits=limits).replace("\u00a0", " ")


def test_the_headline_says_that_a_search_came_to_the_hand_set_plan():
    rows = [DENSE, row("uniform", 0.5, 0.8), row("rl", 0.5, 0.8)]
    assert headline(rows, "rl", "rl", same_plan=True, limits="").endswith(
        "the search came to the plan that is set by hand."
    )


def test_every_target_has_a_speed_of_its_own():
    def joint(*latencies):
        parts = {
            "tpu_v5e": toy.cost_report(latencies[0], toy.Memory(1, 1, 1, 1)),
            "tpu_v3": toy.cost_report(latencies[1], toy.Memory(1, 1, 1, 1), toy.Target("tpu_v3", 8)),
        }
        return toy.CostReport(**{**vars(parts["tpu_v5e"]), "parts": parts})

    words = speed_words(joint(0.5, 0.8), joint(1.0, 1.0))
    assert words == "2.0 times as fast on a TPU v5e and 1.2 times as fast on a TPU v3 at batch 8"


def test_runs_of_one_network_are_joined_in_one_chart(tmp_path):
    saved = [open_saved(saved_search(tmp_path / name, seed=seed).path) for seed, name in enumerate(("one", "two"))]
    page = join_pages(saved)
    assert page.headline == "2 runs side by side: one, two."
    evaluations = page.data["evaluations"]
    # What is set by hand is the same in both, and stands there once.
    assert sorted(evaluations["series"]) == ["one: rl", "one: uniform", "two: rl"]
    text = Reader(render(page)).text
    assert "two 2.5 times as fast on a TPU v5e" in text
    assert "one: The network, before and after" in text


def test_runs_of_other_networks_or_kinds_stand_side_by_side(tmp_path):
    search = saved_search(tmp_path / "a/run").path
    comparison = tmp_path / "b/run"
    comparison.mkdir(parents=True)
    stored = json.loads((ROOT / "tests/benchmarks/results/compare_digits_v5e_40.json").read_text())
    write_json(comparison / "comparison.json", stored)
    page = join_pages([open_saved(search), open_saved(comparison)])
    text = Reader(render(page)).text
    assert "a/run: Every evaluation" in text
    assert "b/run: Differences" in text


def test_a_comparison_tells_who_is_ahead(tmp_path):
    stored = json.loads((ROOT / "tests/benchmarks/results/compare_digits_v5e_40.json").read_text())
    write_json(tmp_path / "comparison.json", stored)
    page = read(tmp_path)
    assert (
        "More accurate than the best hand-set plan that is no slower: random by 8.5 points, greedy by 9.6" in page.text
    )
    assert page.fetched == []
    stored = {**stored, "ended": False, "tested": {}}
    write_json(tmp_path / "comparison.json", stored)
    page = read(tmp_path)
    assert f"This comparison has not ended: {len(stored['runs'])} searches so far." in page.text
    assert "Best so far" in page.text


def test_what_is_no_run_has_no_page(tmp_path):
    with pytest.raises(FolderError, match="There is no folder"):
        open_saved(tmp_path / "none")
    with pytest.raises(FolderError, match="holds no run, of which there is no page. Pages are of search"):
        open_saved(tmp_path)
    write_json(tmp_path / "run.json", {"command": "export"})
    with pytest.raises(FolderError, match="holds a run of 'export', of which there is no page"):
        open_saved(tmp_path)


def test_a_measurement_shows_what_was_asked_for(tmp_path):
    rows = [CostRow(model="net", target="tpu_v5e", answer=toy.evaluation_of(1.0).cost)]
    rows.append(CostRow(model="net", target="tpu_v3", answer=DoesNotFitError("It is <too> large.", 2.0**34, 2.0**33)))
    write_json(tmp_path / "costs.json", [one.to_json() for one in rows])
    dense, half = (toy.evaluation_of(ratio).cost for ratio in (1.0, 0.5))
    sweep = [SweepRow(1.0, 1.0, (dense,)), SweepRow(0.5, 0.5, (half,))]
    write_json(tmp_path / "sweep.json", [dataclasses.asdict(row) for row in sweep])
    html = render(page_of(open_saved(tmp_path)))
    page = Reader(html)
    assert "net takes 1.00 s per batch on a TPU v5e at batch 8: compiler estimate." in page.text
    assert "does not fit" in page.text
    assert "16.00 GiB" in page.text
    assert "It is &lt;too&gt; large." in html
    assert "tpu_v5e down to 50%." in html
    assert "Channel groups" not in page.text
    (tmp_path / "costs.json").write_text("{")
    assert "costs.json cannot be read, so the page lacks what the model costs" in read(tmp_path).text


def test_a_policy_is_told_by_its_problems(tmp_path):
    plans = {name: evaluation_to_json(toy.evaluation_of(ratio)) for name, ratio in (("dense", 1.0), ("uniform", 0.25))}
    lesson = {
        "model": "net",
        "budget": "0.5",
        **plans,
        "policy": evaluation_to_json(toy.evaluation_of(0.5)),
        "best": None,
    }
    lessons = [
        {**lesson, "course": [plans["uniform"], lesson["policy"]]},
        {**lesson, "budget": "0.6", "policy": None, "course": []},
    ]
    write_json(tmp_path / "run.json", {"command": "learn"})
    write_json(tmp_path / "settings.json", dataclasses.asdict(LearnSettings(models=["net"], latencies=[0.5, 0.6])))
    write_json(tmp_path / "metrics.json", {"lessons": lessons, "seconds": 3.0})
    page = read(tmp_path)
    assert "In 1 of 2 problems the policy's own plan scores higher than the best uniform plan within" in page.text
    assert "; in 1 it has none." in page.text
    assert "Best so far" in page.text


def test_a_fine_tuning_tells_how_it_went(tmp_path):
    record = {"epochs": 2, "losses": [1.0, 0.5], "accuracies": [0.8, 0.9], "best_epoch": 2, "stopped": "", "start": 0.7}
    metrics = {
        **{"reward_accuracy_before": 0.7, "reward_accuracy": 0.9, "test_accuracy": 0.88, "training": record},
        **{"dropped": ["block"], "cost": dataclasses.asdict(DENSE.cost), "parameters": 1234, "seconds": 2.0},
    }
    curves = {"epochs": [0, 1, 2], "losses": [None, 1.0, 0.5], "reward_accuracies": [0.7, 0.8, 0.9], "best_epoch": 2}
    write_json(tmp_path / "run.json", {"command": "finetune"})
    write_json(tmp_path / "metrics.json", metrics)
    write_json(tmp_path / "curves.json", curves)
    html = render(page_of(open_saved(tmp_path)))
    page = Reader(html)
    assert (
        "88.0 % of the test images are classified correctly; on the reward split 90.0 %, 20.0 points more than before."
        in page.text
    )
    assert "without block" in page.text
    assert "Accuracy on the reward split by epoch: from 70.00 to 90.00 per cent." in html
    (tmp_path / "curves.json").unlink()
    assert "There is no curves.json: the page lacks the curves." in read(tmp_path).text


def test_what_is_told_of_an_export_is_on_the_page(tmp_path):
    folder = saved_search(tmp_path / "run")
    formats = [
        {"format": "onnx", "error": "<unknown> operation"},
        {"format": "litert", "path": "model.tflite", "bytes": 2**20, "difference": 0.0, "largest": 1.0},
    ]
    write_json(folder.exports, {"exports": [{"when": "today", "folder": "elsewhere", "formats": formats}]})
    html = render(page_of(open_saved(folder.path)))
    assert "&lt;unknown&gt; operation" in html
    assert "litert today model.tflite 1.00 MiB 0.0e+00" in Reader(html).text


def places(data, here=()):
    """The paths of all parts of plain data; of long lists of their beginning."""
    yield here
    items = data.items() if isinstance(data, dict) else enumerate(data[:3]) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*here, key))


@pytest.mark.slow
def test_whatever_a_folder_holds_its_page_says_something(tmp_path):
    """Files of other versions, or changed by hand: any part of them may be anything else, or be gone."""
    folder = saved_search(tmp_path / "run", evaluations=5)
    generator, odd = random.Random(0), [None, "x", "<b>", -1, 0, 1e308, math.nan, [], {}, [1], {"a": 1}, True]
    for name in ["metrics.json", "network.json", "settings.json"] * 8:
        stored = read_json(folder.path / name)
        changed = copy.deepcopy(stored)
        *above, last = generator.choice(
            [place for place in places(changed) if 0 < len(place) <= generator.choice([1, 3, 9])]
        )
        part = changed
        for key in above:
            part = part[key]
        part[last] = generator.choice(odd)
        write_json(folder.path / name, changed)
        html = render(page_of(open_saved(folder.path)))
        assert "How it was made" in html, (name, above, last)
        json.loads(html.split('id="page-data">')[1].split("<")[0], parse_constant=pytest.fail)
        write_json(folder.path / name, stored)


def test_a_search_from_python_is_named_by_its_network(tmp_path):
    folder = saved_search(tmp_path / "run")
    settings = {name: value for name, value in read_json(folder.settings).items() if name not in ("model", "data")}
    write_json(folder.origin, {"command": "autoprune.prune()", "settings": settings})
    folder.settings.unlink()
    page = read(folder.path)
    assert "small_resnet on tpu_v5e" in page.text
    assert "It was begun from Python, by autoprune.prune(model, data, settings=...)" in page.text
    assert "python -m" not in page.text
