"""The public functions as a user meets them: signatures, short results, a path in place of a model, and a search."""

import importlib
import inspect
import pydoc

import keras
import pytest
from keras import layers

import autoprune
from autoprune.errors import DataError, ModelError, PlanError
from autoprune.records import CostReport, Memory, Target
from autoprune.records.plain import read_json, write_json
from autoprune.settings import Constraints, EvaluationSettings, SearcherSettings, SearchSettings, TrainingSettings

# Of the public functions, those that take a model.
OF_MODELS = [name for name in autoprune.__all__ if "model" in inspect.signature(getattr(autoprune, name)).parameters]


def small():
    keras.utils.set_random_seed(0)
    a, b = (layers.Conv2D(n, 3, padding="same", activation="relu", name=name) for name, n in (("a", 32), ("b", 64)))
    return keras.Sequential([keras.Input((8, 8, 1)), a, b, layers.GlobalMaxPooling2D(), layers.Dense(10)])


def test_the_entry_from_python_has_a_signature_that_tells_what_to_give():
    names = list(inspect.signature(autoprune.prune).parameters)
    assert names[:5] == ["model", "data", "target", "batch_size", "latency"]
    assert "batch_size: images per inference call" in pydoc.render_doc(autoprune.prune, renderer=pydoc.plaintext)


def test_importing_commands_hides_no_public_name():
    for command in ("search", "replay", "learn", "compare", "finetune", "measure", "export"):
        importlib.import_module(f"autoprune.{command}")
    for name in autoprune.__all__:
        assert not inspect.ismodule(getattr(autoprune, name)), name


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_path_in_place_of_a_model_is_answered_with_how_to_load_it(name, digits, tmp_path):
    given = {"data": digits, "keep_ratio": 0.5, "plan": None, "folder": tmp_path / "new"}
    function = getattr(autoprune, name)
    needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    arguments = {key: given[key] for key in needed if key != "model"}
    with pytest.raises(ModelError, match=r"model = keras.saving.load_model\('my.keras', compile=False\)"):
        function("my.keras", **arguments)
    assert not (tmp_path / "new").exists()


def test_all_functions_that_take_a_model_are_known():
    assert {"apply_plan", "export_model", "find_groups", "make_plan", "measure_cost", "prune"} <= set(OF_MODELS)


def test_what_is_no_plan_and_what_are_no_data_is_answered_with_where_they_come_from():
    with pytest.raises(PlanError, match=r"autoprune.load_plan\('plan.json'\)"):
        autoprune.apply_plan(small(), "plan.json")
    with pytest.raises(PlanError, match="from autoprune.make_plan or autoprune.load_plan. Received: dict"):
        autoprune.apply_plan(small(), {})
    with pytest.raises(DataError, match="autoprune.data.from_arrays.*Received: tuple"):
        autoprune.prune(small(), ("x", "y"))


def test_results_are_short_to_look_at(digits):
    model = small()
    (group, *_), plan = autoprune.find_groups(model), autoprune.make_plan(model, 0.5)
    cost = CostReport(
        target=Target("tpu_v5e", 8),
        kind="compiler estimate",
        latency=3e-5,
        latency_sum=None,
        latency_iqr=None,
        memory=Memory(1, 1, 1, 2**20),
        flops=9,
        parameters=2000,
    )
    shown = [repr(one) for one in (group, plan, cost, digits, autoprune.apply_plan(model, plan))]
    assert shown[0].startswith("ChannelGroup(name='a', size=32, prunable=True")
    assert shown[1] == "Plan(a 16 of 32, b 32 of 64)"
    assert shown[2] == "CostReport(tpu_v5e, batch 8, bfloat16, compiler estimate: 30.0 us, 1.00 MiB, 2,000 parameters)"
    assert "Split(360 images of shape (8, 8, 1))" in shown[3]
    assert all(len(text) < 250 for text in shown)


@pytest.mark.slow
def test_each_search_has_a_folder_of_its_own_unless_it_is_to_go_on_in_one(digits, tmp_path, monkeypatch, messages):
    monkeypatch.chdir(tmp_path)
    settings = SearchSettings(
        constraints=Constraints(multiple_of=32),
        evaluation=EvaluationSettings(recovery="none"),
        searcher=SearcherSettings("random"),
        training=TrainingSettings(fine_tune_epochs=1),
    )
    asked = {"target": "tpu_v5e", "batch_size": 64, "latency": 0.9, "settings": settings}
    one, two = (autoprune.prune(small(), digits, evaluations=2, **asked) for _ in range(2))
    keys = lambda result: [trial.evaluation.key for trial in result.history["random"]]  # noqa: E731
    assert one.report.parent != two.report.parent
    assert one.report.is_file()
    assert two.report.is_file()
    assert keys(one) == keys(two)
    assert len(repr(one)) < 500
    # As a version left it that had fewer options.
    origin = read_json(one.report.parent / "run.json")
    del origin["settings"]["tracking"], origin["settings"]["importance"]["rounds"]
    write_json(one.report.parent / "run.json", origin)
    more = autoprune.prune(small(), digits, evaluations=3, folder=one.report.parent, **asked)
    assert more.report == one.report
    assert keys(more)[:2] == keys(one)
    assert len(more.history["random"]) == 3
    assert more.kept.cost.target.batch_size == 64
    assert messages().count("run folder: ") == 3
