"""`python -m autoprune.compare`, as a user runs it."""

import json
import re
import shutil
import signal
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_module

from autoprune import cli
from autoprune.errors import SettingsError, UnknownNameError
from autoprune.options import check_overrides
from autoprune.pipeline.session import validate_choices
from autoprune.records.plain import read_json, write_json
from autoprune.reporting.run_folder import RunFolder
from autoprune.resuming import interruptible, open_run
from autoprune.settings import AgentSettings, CompareSettings
from helpers import small_networks
from helpers.running import command, kill_after, run_in, started


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, digits):
    """A comparison of few plans of a small network, all as fast as some uniform plan."""
    path = tmp_path_factory.mktemp("model") / "residual.keras"
    small_networks.save_trained(small_networks.residual(), path, digits)
    return [
        *("model=file", f"model.path={path}", "constraints.multiple_of=32", "constraints.depth=false"),
        *("training.epochs=2", "data.train_size=500", "search.evaluations=3", "searchers=[uniform,random,rl]"),
        # Networks from scratch learn in these steps.
        *("training.batch_size=16", "training.learning_rate=0.005"),
        *("latencies=[0.9]", "seeds=[0,1]", "controls=[scratch:rl,dense]", "uniform_curve=1", "search.finalists=2"),
    ]


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """One whole comparison, for all tests that look at what it leaves."""
    return run_in(tmp_path_factory.mktemp("compare"), *tiny, module="compare", fresh=True)


def comparison_of(folder):
    return read_json(folder / "comparison.json")


def timeless(value):
    """Plain data without what a clock told."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "seconds"}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_the_run_folder_holds_everything(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert {"comparison.json", "comparison.html", "dense.keras", "evaluations.sqlite", "settings.json"} <= names
    assert not [name for name in names if "partial" in name]
    assert list((folder / "tensorboard" / "agent" / "rl@0.9-0").glob("events.out.tfevents*"))


def test_every_searcher_had_equal_evaluations_and_hand_set_ones_searched_once(finished):
    runs = comparison_of(finished[0])["runs"]
    assert set(runs) == {"uniform@0.9", "random@0.9/0", "random@0.9/1", "rl@0.9/0", "rl@0.9/1"}
    assert len(runs.pop("uniform@0.9")["keys"]) <= 3
    assert {len(run["keys"]) for run in runs.values()} == {3}


def test_budgets_are_kept_and_uniform_plans_are_as_fast(finished):
    data = comparison_of(finished[0])
    limit = 0.9 * data["dense"]["cost"]["latency"]
    for run in data["runs"].values():
        for plan in run["finalists"]:
            assert plan["cost"]["latency"] <= limit
    assert set(data["matches"]) == {"random@0.9/0", "random@0.9/1", "rl@0.9/0", "rl@0.9/1"}
    for name, matches in data["matches"].items():
        searched = chosen_of(data, name)["cost"]["latency"]
        assert 1 <= len(matches) <= len(data["runs"][name]["finalists"])
        for match in matches:
            assert match["evaluation"]["cost"]["latency"] <= 1.01 * searched
            assert match["excess"] == pytest.approx(match["evaluation"]["cost"]["latency"] / searched - 1)


def chosen_of(data, name):
    """The finalist of a cell that is the most accurate on the reward split after fine-tuning with the cell's seed."""
    seed = name.partition("/")[2]

    def accuracy(plan):
        return data["tested"][f"{plan['key']}/fine-tuned/{seed}"]["reward_accuracy"]

    return max(data["runs"][name]["finalists"], key=accuracy)


def test_plans_are_finished_alike_and_once(finished):
    data = comparison_of(finished[0])
    tested = list(data["tested"].values())
    assert len({(t["key"], t["recipe"], t["seed"]) for t in tested}) == len(tested)
    epochs = {t["recipe"]: t["epochs"] for t in tested}
    assert epochs == {"as it is": 0, "fine-tuned": 1, "from scratch": 3}
    best = {chosen_of(data, name)["key"] for name in data["runs"] if name.startswith("rl")}
    assert {t["key"] for t in tested if t["recipe"] == "from scratch"} == best
    tuned = {(t["key"], t["seed"]) for t in tested if t["recipe"] == "fine-tuned"}
    assert {(data["dense"]["key"], 0), (data["dense"]["key"], 1)} <= tuned


def test_new_weights_are_not_the_kept_ones(finished):
    """A network from scratch ends elsewhere than the fine-tuned one, and with another seed elsewhere again."""
    tested = comparison_of(finished[0])["tested"]
    scratch = [t for t in tested.values() if t["recipe"] == "from scratch"]
    for one in scratch:
        assert one["test_accuracy"] != tested[f"{one['key']}/fine-tuned/{one['seed']}"]["test_accuracy"]
        assert one["test_accuracy"] > 0.15


def test_tables_and_verdicts_are_printed(finished):
    folder, done = finished
    said = " ".join(done.stdout.split())
    for words in (
        "After fine-tuning",
        "Differences",
        "Cost at equal accuracy",
        "rl over the best hand-set uniform plan of the same latency:",
        "reference point latency 100% of dense",
        f"Report: {folder}/comparison.html",
    ):
        assert words in said
    assert "Traceback" not in done.stderr
    # Nothing is said of a difference whose interval contains zero.
    intervals = [item["interval"] for item in comparison_of(folder)["differences"]]
    assert said.count("more accurate.") <= sum(interval["low"] > 0 for interval in intervals if interval["n"] > 1)


def test_the_page_needs_nothing_else(finished):
    page = (finished[0] / "comparison.html").read_text()
    assert not re.search(r'<[^>]*(src|href)="(?!#)|@import|url\(http', page.split("<script>")[0])
    for words in (
        'data-chart="accuracy-latency"',
        'data-chart="best-0"',
        "test accuracy after fine-tuning (%)",
        "latency per batch (us)",
        "compiler estimate",
        "One base model",
    ):
        assert words in page


def test_a_comparison_that_has_ended_is_not_done_again(finished, tmp_path):
    files = [path for path in finished[0].iterdir() if path.is_file() and path.suffix != ".log"]
    before = {path: path.stat().st_mtime_ns for path in files if path.name != ".lock"}
    done = command(f"resume={finished[0]}", module="compare", cwd=tmp_path)
    assert done.returncode == 0
    assert f"This comparison has ended: its report is {finished[0]}/comparison.html" in done.stdout.replace("\n", "")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_interrupted_twice_and_resumed_equals_uninterrupted(finished, tiny, tmp_path):
    """Ctrl-C while it searches with one seed, then a kill while it fine-tunes, with the second one given as well."""

    def reached(part, count):
        def far_enough():
            files = tmp_path.glob("outputs/compare/*/*/comparison.json")
            return any(len(json.loads(path.read_text())[part]) >= count for path in files)

        return far_enough

    first = started(*tiny, "seeds=[0]", module="compare", cwd=tmp_path)
    said = kill_after(first, reached("runs", 2), signal.SIGINT)
    assert first.returncode == 130
    assert "python -m autoprune.compare resume=" in said
    assert "Traceback" not in said
    (folder,) = [path.parent for path in tmp_path.glob("outputs/compare/*/*/comparison.json")]
    searched = comparison_of(folder)["runs"]

    second = started(f"resume={folder}", "seeds=[0,1]", module="compare", cwd=tmp_path)
    kill_after(second, reached("tested", 4))
    tuned = comparison_of(folder)
    assert not tuned["ended"]
    assert {name: tuned["runs"][name] for name in searched} == searched

    done = command(f"resume={folder}", module="compare", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    resumed, whole = comparison_of(folder), comparison_of(finished[0])
    assert resumed["runs"] == {**resumed["runs"], **tuned["runs"]}
    assert timeless(resumed) == timeless(whole)
    assert resumed["seconds"] > 0


def test_a_comparison_that_has_ended_compares_more(finished, tmp_path):
    """One more hand-set rule: every search is matched anew, and nothing that was done is done again."""
    folder = shutil.copytree(finished[0], tmp_path / "more")
    before = comparison_of(folder)
    searchers = ["uniform", "uniform_skip", "random", "rl"]
    done = command(f"resume={folder}", f"searchers=[{','.join(searchers)}]", module="compare", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    after = comparison_of(folder)
    assert after["ended"]
    assert after["settings"] == {**before["settings"], "searchers": searchers}
    assert set(after["runs"]) - set(before["runs"]) == {"uniform_skip@0.9"}
    assert after["taught_by"] == before["taught_by"] == ["uniform"], "later searches know no more than the first"
    for part in ("runs", "tested"):
        assert before[part] == {name: after[part][name] for name in before[part]}
    assert {row["searcher"] for row in after["rows"]} == set(searchers)
    assert "uniform_skip" in (folder / "comparison.html").read_text()
    again = command(f"resume={folder}", module="compare", cwd=tmp_path)
    assert "This comparison has ended" in again.stdout


def test_what_is_refused_leaves_a_comparison_that_has_ended(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "kept")
    before = {name: (folder / name).read_bytes() for name in ("comparison.json", "settings.json")}
    done = command(f"resume={folder}", "latencies=[0.9,0.01]", module="compare", cwd=tmp_path)
    assert done.returncode == 2
    assert "latency 0.01 was asked for" in " ".join(done.stderr.split())
    assert {name: (folder / name).read_bytes() for name in before} == before


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("given", ["controls=[scratch:bayes]", "latencies=[]", "searchers=[rl,rl:dyna_ppo]"])
def test_what_is_given_beside_resume_has_to_go_with_the_folders_settings(tmp_path, monkeypatch, given):
    """None of these goes with the defaults."""
    began = CompareSettings(agent=AgentSettings("sac"), searchers=["bayes", "rl"], controls=[], memories=[0.6])
    RunFolder.make(tmp_path).save_settings(began)
    monkeypatch.setattr(cli, "overrides", lambda: [f"resume={tmp_path}", given])
    monkeypatch.setattr(cli, "run_folder", lambda: tmp_path)
    monkeypatch.setattr(cli, "save_config", lambda config, folder: None)
    with initialize_config_module("autoprune.conf", version_base="1.3"):
        config = compose("compare", overrides=cli.overrides())
    with open_run(config, CompareSettings, "compare") as (settings, _):
        pass
    name = given.partition("=")[0]
    assert getattr(settings, name) == list(config[name])
    assert replace(settings, **{name: getattr(began, name)}) == began


def test_ctrl_c_tells_what_was_given_beside_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "overrides", lambda: [f"resume={tmp_path}", "seeds=[0,1,2]"])
    with pytest.raises(KeyboardInterrupt), interruptible("compare", RunFolder.make(tmp_path)):
        raise KeyboardInterrupt
    assert f"python -m autoprune.compare resume={tmp_path} seeds=[0,1,2]\n" in capsys.readouterr().out


def test_legal_widths_stay_what_they_were(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "staircase")
    settings = json.loads((folder / "settings.json").read_text())
    settings["constraints"]["widths"] = "staircase"
    write_json(folder / "settings.json", settings)
    done = command(f"resume={folder}", "memories=[0.9]", module="compare", cwd=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "expected memories left empty, as this comparison was begun. Received: [0.9]. Begin a comparison" in said


@pytest.mark.slow
def test_a_floor_that_nothing_meets_is_answered_with_what_can_be_had(tiny, tmp_path):
    few = ["searchers=[uniform,random]", "seeds=[0]", "controls=[]", "search.evaluations=2", "search.finalists=1"]
    floor = ["reward=latency_at_accuracy", "reward.accuracy_floor=1", "evaluation.recovery=none", "training.epochs=6"]
    done = command(*tiny, *few, *floor, module="compare", cwd=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "At 0.9: No plan reached the accuracy floor: reward.accuracy_floor=1 asks for a score of" in said
    assert "Lower the floor" in said


def test_resume_takes_no_other_option(finished):
    done = command(f"resume={finished[0]}", "search.evaluations=9", module="compare", cwd=finished[0].parents[3])
    assert done.returncode == 2
    assert "give resume=FOLDER alone, or with searchers, latencies, memories, seeds" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_an_impossible_budget_is_answered_before_anything_is_searched(tiny, tmp_path):
    arguments = [argument for argument in tiny if not argument.startswith("latencies")]
    done = command(*arguments, "latencies=[0.9,0.01]", module="compare", cwd=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "latency 0.01 was asked for, 0." in said
    assert "to 1 is possible" in said
    assert not list(tmp_path.glob("outputs/compare/*/*/comparison.json"))


def test_bad_input_gets_a_clear_error(tmp_path):
    done = command("searchers=[uniform,rondom]", module="compare", cwd=tmp_path)
    assert done.returncode == 2
    assert "There is no searcher 'rondom'. Did you mean 'random'?" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        (
            "compare",
            "experiment=quick",
            "experiment=quick is not for `python -m autoprune.compare`, which has no budget.",
        ),
        ("compare", "searcher=random", "There is no option 'searcher'. Did you mean searchers"),
        ("compare", "latency=[0.5]", "There is no option 'latency'. Did you mean latencies"),
        ("compare", "resume=nowhere", "'nowhere' is not a run folder that can be resumed"),
        ("search", "experiment=fashion_small", "experiment=fashion_small is not for `python -m autoprune.search`"),
    ],
)
def test_options_that_the_command_does_not_have(name, argument, message):
    """What every command asks before Hydra starts."""
    assert message in check_overrides(name, [argument])


@pytest.mark.parametrize("argument", ["experiment=fashion_small", "searchers=[rl]", "memories=[0.5]", "agent=ppo"])
def test_options_that_it_has(argument):
    assert check_overrides("compare", [argument]) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"searchers": ["rl", "rl"]}, "searchers must be different from each other. Received: rl, rl in"),
        (
            {"searchers": ["rl", "rl:dyna_ppo"]},
            "searchers must be different from each other. Received: rl, rl:dyna_ppo in",
        ),
        ({"searchers": ["random:ppo"]}, "searchers must be names of searchers, or rl:AGENT such as rl:ppo"),
        ({"searchers": ["rl:"]}, "searchers must be names of searchers, or rl:AGENT such as rl:ppo"),
        ({"searchers": [""]}, "searchers must be names of searchers"),
        ({"latencies": []}, "latencies must be given, or else memories"),
        ({"latencies": [0.5, 0.5]}, "latencies must be different from each other. Received: 0.5, 0.5 in"),
        ({"latencies": [0.5, 1.5]}, "latencies must be shares of the dense model's, above 0 and at most 1"),
        ({"latencies": [0.0]}, "latencies must be shares of the dense model's"),
        ({"memories": [-1.0]}, "memories must be shares of the dense model's"),
        ({"seeds": []}, "seeds must be one value or more"),
        ({"seeds": [1, 1]}, "seeds must be different from each other. Received: 1, 1 in"),
        ({"seeds": [-1]}, "seeds must be a whole number from 0"),
        ({"controls": ["scrath"]}, "controls must be dense, scratch, or scratch: and one of the searchers"),
        ({"controls": ["scratch:bayes"]}, "controls must be dense, scratch, or scratch: and one of the searchers"),
        ({"uniform_curve": -1}, "uniform_curve must be 0 or more"),
    ],
)
def test_lists_that_cannot_be(options, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        CompareSettings(**options)


@pytest.mark.parametrize(
    ("searcher", "message"),
    [
        ("rll", "There is no searcher 'rll'. Did you mean 'rl'?"),
        ("uniform_skp", "There is no searcher 'uniform_skp'. Did you mean 'uniform_skip'?"),
        ("rl:ppoo", "There is no agent 'ppoo'. Did you mean 'ppo'?"),
    ],
)
def test_names_that_do_not_exist(searcher, message):
    settings = CompareSettings(searchers=[searcher], controls=[])
    with pytest.raises(UnknownNameError, match=re.escape(message)):
        validate_choices(settings.search_settings(searcher))


def test_options_belong_to_the_agent_that_they_were_given_for():
    settings = CompareSettings(agent=AgentSettings("td3", {"tau": 0.1}), searchers=["rl", "rl:ppo"])
    validate_choices(settings.search_settings("rl"))
    validate_choices(settings.search_settings("rl:ppo"))
    assert settings.search_settings("rl").agent.options == {"tau": 0.1}
    assert settings.search_settings("rl:ppo").agent.options == {}
