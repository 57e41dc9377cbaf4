"""What `autoprune/README.md` shows of extending autoprune, run as it stands there."""

import re

import keras
import numpy as np
import pytest

import autoprune
from autoprune.cost.chips import CHIPS
from autoprune.cost.model import target_names
from autoprune.planning.importance import IMPORTANCES
from autoprune.records import Budget
from autoprune.searchers import SEARCHERS
from autoprune.searchers.objective import REWARDS, Outcomes
from autoprune.settings import RewardSettings
from helpers import toy
from helpers.places import ROOT
from helpers.topologies import images_for, made

README = (ROOT / "autoprune" / "README.md").read_text()


def examples(title):
    """The Python blocks of a section, one after the other, as one program."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)[1]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


@pytest.fixture
def undo(monkeypatch):
    """Entries of a test are taken out of the tables again."""
    for registry in (IMPORTANCES, REWARDS, SEARCHERS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    known = dict(CHIPS)
    yield
    CHIPS.clear()
    CHIPS.update(known)


def test_an_importance_criterion(undo):
    model = made("plain")
    kernel = np.abs(model.layers[1].kernel.numpy())
    names = {"model": model, "images": images_for(model, 4), "labels": np.arange(4)}
    exec(examples("An importance criterion"), names)
    largest = kernel.reshape(-1, kernel.shape[-1]).max(axis=0)
    kept = next(iter(names["plan"].kept.values()))
    assert set(kept) == set(np.argsort(largest)[len(largest) - len(kept) :])
    # Pruned in rounds after that: a quarter of 8 and of 12 channels.
    assert [group.size for group in autoprune.find_groups(model)[:2]] == [2, 3]


def test_a_reward(undo):
    exec(examples("A reward"), {})
    dense = Outcomes(score=0.9, latency=2e-3, memory=None, flops=1e6)
    terms = REWARDS.get("accuracy_and_time")(
        Outcomes(score=0.45, latency=1e-3, memory=None, flops=1e5),
        dense,
        Budget(latency=None, memory=None),
        RewardSettings(penalty=3.0),
    )
    assert terms == {"accuracy": 0.5, "time": -1.5}


def test_a_chip(undo):
    exec(examples("A chip"), {})
    assert "tpu_v5e_half" in target_names()
    chip = CHIPS["tpu_v5e_half"]
    assert chip.slices[4] == "v5e:2x2"
    assert chip.utilisation(49e12, 1.0) == 0.5


def test_a_searcher(undo):
    exec(examples("A searcher"), {})
    evaluator = toy.search("climb", 21)
    assert evaluator.used == 21
    assert evaluator.history.best.reward >= evaluator.history[0].reward
    assert set(evaluator.history.sources) == {"anchor", "climb"}


def test_a_layer():
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.dim = shape[-1]
            self.factor = self.add_weight(shape=(self.dim,), initializer="random_normal")
            self.table = make_table(self.dim)

        def call(self, x):
            return x * self.factor

    def make_table(size):
        return list(range(size))

    names = {"autoprune": autoprune, "Scale": Scale, "make_table": make_table}
    exec(examples("A layer"), names)
    image = keras.Input((4, 4, 3))
    x = Scale(name="scale")(keras.layers.Conv2D(8, 3, name="made")(image))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    report = autoprune.apply_plan(model, autoprune.make_plan(model, 0.5, multiple_of=1))
    scale = model.get_layer("scale")
    assert scale.factor.shape == (4,)
    assert (scale.dim, scale.table) == (4, [0, 1, 2, 3])
    assert "made" not in report.left_alone
