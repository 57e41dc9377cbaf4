"""Tables of channel groups and branches."""

import keras
import pytest
from rich.console import Console

from autoprune.graph import find_branches
from autoprune.records import Memory, Target
from autoprune.reporting.groups import branch_data, branch_table, read_branch_shares
from helpers import toy
from helpers.branching import made_branching


def printed(table, width=120):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(table)
    return console.export_text()


def lines(text):
    return [line for line in text.splitlines() if line.startswith("│")]


@pytest.fixture
def model():
    """A sum of an identity and a branch, then one with a branch that cannot go: it alone has the output's shape."""
    image = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(6, 1, name="block1_conv1")(image)
    x = keras.layers.Add(name="add")([image, keras.layers.Conv2D(4, 1, name="block1_conv2")(x)])
    row = keras.layers.AveragePooling2D((8, 1), name="rows")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="whole")(x)
    x = keras.layers.Add(name="broad")([x, row])
    return keras.Model(image, keras.layers.Dense(3, name="last")(keras.layers.Flatten()(x)))


def costs(*latencies):
    """Of targets on which the first convolution takes half of the latency, and all layers three quarters."""
    memory = Memory(1, 1, 1, 3)
    layers = {"block1_conv1": 0.5, "whole": 0.25}
    return [
        toy.cost_report(whole, memory, Target(target), {path: share * whole for path, share in layers.items()})
        for target, whole in latencies
    ]


def test_a_row_tells_what_leaves_with_a_branch_and_what_it_holds(model):
    rows = read_branch_shares(model, find_branches(model), costs(("tpu_v3", 2.0)))
    text = printed(branch_table(rows))
    cells = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[1:-1]] for line in lines(text)}
    parameters = (4 * 6 + 6 + 6 * 4 + 4) / model.count_params()
    name, kind, merge, layers, groups, removable, of_parameters, _, latency = cells["block1"]
    assert (name, kind, merge, layers, groups, removable) == ("block1", "sum", "add", "2", "block1_conv1", "yes")
    assert (of_parameters, latency) == (f"{parameters:.1%}", "50.0%")
    assert cells["broad[0]"][5].startswith("no: it is the only operand")


def test_each_target_has_a_column_while_there_is_room(model):
    rows = read_branch_shares(model, find_branches(model), costs(("tpu_v3", 2.0), ("tpu_v5e", 1.0)))
    assert branch_table(rows).columns[-1].header == "latency on tpu_v5e"
    text = printed(branch_table(rows), 60)
    assert max(map(len, text.splitlines())) <= 60
    assert "Left out at this width: kind, ends in, layers, groups, FLOPs." in " ".join(text.split())
    assert text.count("50.0%") == 2


def test_without_times_of_layers_no_share_of_the_latency_is_told(model):
    rows = read_branch_shares(model, find_branches(model), [toy.cost_report(1.0, Memory(1, 1, 1, 3))])
    assert "latency" not in [column.header for column in branch_table(rows).columns]
    assert "Latency: known of no layer by itself." in printed(branch_table(rows))


def test_data_has_all_paths(model):
    rows = read_branch_shares(model, find_branches(model), costs(("tpu_v3", 2.0), ("tpu_v5e", 1.0)))
    first = branch_data(rows)[0]
    assert first["layers"] == ["block1_conv1", "block1_conv2"]
    assert first["latency"] == {"tpu_v3": 0.5, "tpu_v5e": 0.5}
    assert (first["removable"], first["reason"]) == (True, "")


def test_gates_can_go_where_they_are_named():
    model = made_branching("gated_residuals")
    rows = read_branch_shares(model, find_branches(model), costs(("tpu_v3", 2.0)))
    text = printed(branch_table(rows), 200)
    cells = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[1:-1]] for line in lines(text)}
    assert (cells["se1"][1], cells["se1"][2], cells["se1"][5]) == ("gate", "scale1", "if named")
    assert cells["sum1[1]"][5] == "yes"
    assert "Gates go only where constraints.depth names them: off by default." in " ".join(text.split())
    told = {row["name"]: row for row in branch_data(rows)}
    assert [(told[name]["removable"], told[name]["by_default"]) for name in ("se1", "sum1[1]")] == [
        (True, False),
        (True, True),
    ]
    assert told["se1"]["parameters"] == pytest.approx((6 * 3 + 3 + 3 * 6 + 6) / model.count_params())
