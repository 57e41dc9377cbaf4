"""Tables of the measure command: shares of the first model, and rows that say why there are no figures."""

from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from autoprune.cost.sweep import SweepRow
from autoprune.errors import CostError, DoesNotFitError
from autoprune.records import CostReport, Memory, Target, TrainingMemory, TrainingStepReport
from autoprune.reporting.costs import CostRow, cost_table, layer_table, notes, training_table
from autoprune.reporting.sweep import plot_sweep, sweep_table
from autoprune.reporting.tables import byte_count

COST = CostReport(
    target=Target("tpu_v5e"),
    kind="compiler estimate",
    latency=1e-3,
    latency_sum=9e-4,
    latency_iqr=None,
    memory=Memory(2 * 2**20, 3 * 2**20, 2**20, 6 * 2**20),
    flops=128 * 10**6,
    parameters=1234,
    traffic=10,
    utilisation=0.25,
    bound="compute",
)
STEP = TrainingStepReport(
    target=Target("tpu_v5e"),
    devices=4,
    chips=4,
    global_batch_size=512,
    optimizer="adamw",
    kind="compiler estimate",
    fits=True,
    latency=2e-3,
    latency_sum=1.9e-3,
    memory=TrainingMemory(2**20, 2**21, 2**20, 2**22),
    needed=2**22,
    capacity=2**34,
    communicated=2**20,
    parameters=1234,
)
TOO_LARGE = replace(STEP, fits=False, latency=None, latency_sum=None, memory=None, needed=2**35, communicated=None)


def printed(table, width=120):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(table)
    return console.export_text()


def line_with(text, *words):
    (line,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_shares_are_of_the_first_model_on_the_same_target():
    half = replace(COST, latency=5e-4, memory=replace(COST.memory, total=3 * 2**20))
    rows = [
        CostRow(model="dense", target="tpu_v5e", answer=COST),
        CostRow(model="pruned", target="tpu_v5e", answer=half),
    ]
    text = printed(cost_table(rows))
    assert line_with(text, "pruned")[:4] == ["tpu_v5e", "pruned", "500.0 us", "50.0%"]
    assert line_with(text, "pruned")[-4:] == ["25%", "compute", "3.00 MiB", "50.0%"]
    assert "MFLOPs" not in text


def test_a_first_model_without_figures_leaves_shares_open():
    rows = [
        CostRow(model="dense", target="tpu_v5e", answer=CostError("no")),
        CostRow(model="pruned", target="tpu_v5e", answer=COST),
    ]
    text = printed(cost_table(rows))
    assert line_with(text, "pruned")[3] == "-"
    assert line_with(text, "dense")[2] == "failed"
    assert rows[0].to_json() == {"model": "dense", "target": "tpu_v5e", "error": "no"}
    assert rows[1].to_json()["model"] == "pruned"


def test_what_does_not_fit_says_what_it_needs():
    rows = [
        CostRow(model="net", target=name, answer=DoesNotFitError("too large", 2**35, 2**34))
        for name in ("tpu_v2", "tpu_v3")
    ]
    text = printed(cost_table([*rows, CostRow(model="net", target="tpu_v5e", answer=COST)]))
    assert line_with(text, "tpu_v3")[1] == "does not fit"
    assert "32.00 GiB" in text
    assert "1,234 parameters, 1.0 MFLOPs per image." in text
    # One sentence for all that failed alike.
    assert notes(rows) == ["net on tpu_v2, net on tpu_v3: too large"]
    assert len(notes([CostRow(model="net", target="tpu_v2", answer=CostError("x" * 5000))])[0]) < 800


def test_training_steps():
    rows = [
        CostRow(
            model="net",
            target="tpu_v5e",
            answer=replace(STEP, devices=1, global_batch_size=128, communicated=0),
            devices=1,
        ),
        CostRow(model="net", target="tpu_v5e", answer=STEP, devices=4),
        CostRow(model="net", target="tpu_v5e", answer=TOO_LARGE, devices=16),
        CostRow(model="net", target="tpu_v5e", answer=CostError("no"), devices=64),
    ]
    text = printed(training_table(rows))
    assert line_with(text, " 1 ", "128")[-1] == "-"
    assert line_with(text, " 4 ", "512")[-1] == "1.00 MiB"
    assert line_with(text, " 16 ")[3:7] == ["does not fit", "-", "32.00 GiB", "200.0%"]
    assert line_with(text, " 64 ")[3] == "failed"
    assert rows[-1].to_json() == {"model": "net", "target": "tpu_v5e", "devices": 64, "error": "no"}
    assert "Latency leaves out the time in which devices exchange gradients" in " ".join(text.split())


def test_tables_of_several_models_are_not_cut_at_120_columns():
    name = "a_model_with_a_name_that_is_far_too_long_for_a_column"
    large = replace(COST, memory=Memory(2**33, 2**33, 2**33, 2**33))
    costs = printed(
        cost_table(
            [
                CostRow(model=name, target="tpu_v5e", answer=large),
                CostRow(model="pruned", target="tpu_v5e", answer=COST),
            ]
        )
    )
    step = replace(TOO_LARGE, communicated=2**33, global_batch_size=2**20)
    steps = printed(
        training_table(
            [
                CostRow(model=name, target="tpu_v5e", answer=step, devices=256),
                CostRow(model="pruned", target="tpu_v5e", answer=STEP, devices=256),
            ]
        )
    )
    for text in (costs, steps):
        assert "a_model_" in text
        assert "a_column" in text
        # The name alone is shortened.
        assert text.count("…") == 1
        assert not [line for line in text.splitlines() if line.endswith("…") or "Left out" in line]
    assert "…" not in printed(training_table([CostRow(model="net", target="tpu_v5e", answer=step, devices=256)]))


def sweep_rows(targets):
    """A staircase: the second plan is slower than the dense model."""
    return [
        SweepRow(
            ratio,
            ratio,
            tuple(
                replace(COST, target=Target(name), latency=factor * 1e-3, flops=round(ratio**2 * COST.flops))
                for name in targets
            ),
        )
        for ratio, factor in ((1.0, 1.0), (0.9, 1.1), (0.5, 0.4))
    ]


def test_sweep_over_many_targets_is_a_table_of_shares_and_a_panel_each(tmp_path):
    names = [f"target_{number}" for number in range(7)]
    text = printed(sweep_table("net", sweep_rows(names)))
    assert "…" not in text
    assert line_with(text, "1.00 ms")[3:] == ["1.00 ms"] * 7
    assert line_with(text, " 0.9 ")[3:] == ["110%!"] * 7
    few = printed(sweep_table("net", sweep_rows(names[:1])))
    assert line_with(few, " 0.5 ")[3:] == ["400.0 us  40%"]
    for count in (1, 2, 4, 7):
        plot_sweep("net", sweep_rows(names[:count]), tmp_path / f"{count}.png")
        assert (tmp_path / f"{count}.png").read_bytes().startswith(b"\x89PNG")


def test_no_panel_of_the_plot_is_cut(tmp_path, monkeypatch):
    """Panels share their axes, whichever of them holds the slowest plan."""
    rows = sweep_rows(["first", "second"])
    slow = replace(rows[1].reports[1], latency=1.5e-3)
    rows[1] = replace(rows[1], reports=(rows[1].reports[0], slow))
    seen = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (seen.append(self), save(self, *a, **k)))
    plot_sweep("net", rows, tmp_path / "plot.png")
    for axes in seen[0].axes:
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > 1.5


def test_sizes_have_a_unit_that_fits():
    assert [byte_count(value) for value in (None, 2**20, 9 * 2**30, 2**34)] == [
        "-",
        "1.00 MiB",
        "9216.00 MiB",
        "16.00 GiB",
    ]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_narrow_terminals_get_fewer_columns_and_no_broken_row(width):
    names = [f"target_{number}" for number in range(7)]
    names_of_models = ("a_model_with_a_name_that_is_too_long", "a_model_with_a_name_that_is_longer_still")
    several = [CostRow(model=model, target="tpu_v5e", answer=COST) for model in names_of_models]
    cases = [
        (cost_table([CostRow(model="net", target="tpu_v5e", answer=COST)]), 1, ["tpu_v5e", "1.00 ms"]),
        (cost_table(several), 2, ["tpu_v5e", "1.00 ms", "a_model_wi"]),
        (
            training_table([CostRow(model="net", target="tpu_v5e", answer=STEP, devices=4)]),
            1,
            ["tpu_v5e", "4", "2.00 ms"],
        ),
        (
            training_table(
                [CostRow(model=model, target="tpu_v5e", answer=STEP, devices=4) for model in names_of_models]
            ),
            2,
            ["tpu_v5e", "2.00 ms"],
        ),
        (sweep_table("net", sweep_rows(names)), 3, ["0.5", "40%"]),
        (sweep_table("net", sweep_rows(names[:3])), 3, ["0.5", "400.0 us  40%"]),
    ]
    for table, rows, kept in cases:
        text = printed(table, width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        lines = [line for line in text.splitlines() if line.startswith("│")]
        assert len(lines) == rows
        for word in kept:
            assert word in lines[-1]
        shown = len(lines[0].strip("│").split("│"))
        assert ("Left out at this width:" in " ".join(text.split())) == (shown < len(table.columns))
    assert len(printed(cases[-2][0], 60).splitlines()[5].split("│")) < len(cases[-2][0].columns)


def test_a_bound_far_from_the_latency_is_explained():
    for utilisation, told in ((0.03, "At 3% of peak it is not the bound"), (0.004, "At 0.4% of peak"), (0.6, None)):
        text = " ".join(
            printed(
                cost_table([CostRow(model="net", target="tpu_v5e", answer=replace(COST, utilisation=utilisation))])
            ).split()
        )
        assert "the FLOPs or the traffic to HBM" in text
        assert (told in text) if told else "layers=true" not in text


def test_latency_by_layer_adds_up():
    """A layer's share of the peak is that of its FLOPs in its time; what belongs to no layer is told."""
    report = replace(COST, layers={"conv": 6e-4, "dense": 1e-4})
    text = printed(
        layer_table(CostRow(model="net", target="tpu_v5e", answer=report), {"conv": 750, "unseen": 0, "dense": 250})
    )
    assert line_with(text, "conv")[1:] == ["600.0 us", "60.0%", "75.0%", "31%"]
    assert line_with(text, "dense")[1:] == ["100.0 us", "10.0%", "25.0%", "62%"]
    assert line_with(text, "other", "us")[1:] == ["300.0 us", "30.0%", "-", "-"]
    assert "Compiler estimate of the whole model" in text
    measured = replace(COST, kind="measured", utilisation=None)
    text = printed(layer_table(CostRow(model="net", target="cpu", answer=measured), {"conv": 750}))
    assert line_with(text, "other", "ms")[1:3] == ["1.00 ms", "100.0%"]
    assert "Measured: known of the model as a whole only" in text
