"""What `autoprune/README.md` shows of extending autoprune, run as it stands there."""

import re

import numpy as np
import pytest
from places import ROOT
from topologies import made

from autoprune.cost.chips import CHIPS
from autoprune.cost.model import target_names
from autoprune.planning.importance import IMPORTANCES
from autoprune.records import Budget
from autoprune.searchers.rewards import REWARDS, Outcomes
from autoprune.settings import RewardSettings

README = (ROOT / "autoprune" / "README.md").read_text()


def examples(title):
    """The Python blocks of a section, one after the other, as one program."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)[1]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


@pytest.fixture
def undo(monkeypatch):
    """Entries of a test are taken out of the tables again."""
    for registry in (IMPORTANCES, REWARDS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    known = dict(CHIPS)
    yield
    CHIPS.clear()
    CHIPS.update(known)


def test_an_importance_criterion(undo):
    model = made("plain")
    names = {"model": model}
    exec(examples("An importance criterion"), names)
    kernel = np.abs(model.layers[1].kernel.numpy())
    largest = kernel.reshape(-1, kernel.shape[-1]).max(axis=0)
    kept = next(iter(names["plan"].kept.values()))
    assert set(kept) == set(np.argsort(largest)[len(largest) - len(kept) :])


def test_a_reward(undo):
    exec(examples("A reward"), {})
    dense = Outcomes(0.9, 2e-3, None, 1e6)
    terms = REWARDS.get("accuracy_and_time")(
        Outcomes(0.45, 1e-3, None, 1e5), dense, Budget(latency=None, memory=None), RewardSettings(penalty=3.0)
    )
    assert terms == {"accuracy": 0.5, "time": -1.5}


def test_a_chip(undo):
    exec(examples("A chip"), {})
    assert "tpu_v5e_half" in target_names()
    chip = CHIPS["tpu_v5e_half"]
    assert chip.slices[4] == "v5e:2x2"
    assert chip.utilisation(49e12, 1.0) == 0.5
