"""Models of `keras.applications` prune exactly: one of each family here, all of them in the benchmark."""

import json

import keras
import pytest

from helpers.applications import constructors, prove
from helpers.places import ROOT

FAMILIES = (
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionResNetV2"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception"),
)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX compiles every operation for every width: hours")
@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_application_prunes_exactly(name):
    row = prove(name, pixels=75)
    # Everything but the classifier has freedom, and half of the channels of a chain is a quarter of its weights.
    assert [*row["frozen"].values()] == [1]
    assert "is an output of the model" in next(iter(row["frozen"]))
    assert row["parameters_pruned"] < 0.5 * row["parameters"]
    assert row["dropped"] == row["branches"] // 2
    assert row["max_difference"] < 1e-4 < row["change_by_pruning"]
    assert row["saved_equals"]
    assert row["loss_is_finite"]
    assert row["restored_equals"]


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX compiles every operation for every width: hours")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["EfficientNetB0", "MobileNetV3Small"])
def test_applications_lose_gates_exactly(name):
    row = prove(name, pixels=75, kinds=("gate",))
    assert row["dropped"] == row["branches"] // 2 > 3
    assert row["max_difference"] < 1e-4 < row["change_by_pruning"]
    assert all(row[check] for check in ("saved_equals", "loss_is_finite", "restored_equals"))


def test_published_table_has_every_application_and_only_passes():
    rows = json.loads((ROOT / "tests/benchmarks/results/applications.json").read_text())["rows"]
    assert [row["model"] for row in rows] == constructors()
    for row in rows:
        assert row["max_difference"] < 1e-4 < row["change_by_pruning"], row
        assert all(row[check] for check in ("saved_equals", "loss_is_finite", "restored_equals")), row
