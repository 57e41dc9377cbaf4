"""Figures as tables: for the terminal, and as plain rows for HTML and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.records import Budget, CostReport, Evaluation
from autoprune.records.measure import ACCURACY, Measure
from autoprune.reporting.fitting import Column, FittingTable
from autoprune.tasks import CLASSIFICATION, Task


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of the result table.

    Attributes:
        name: `dense`, `uniform` or `searched (...)`.
        test_accuracy: on the test split, after fine-tuning; taken once.
        reward_accuracy: on the reward split, after fine-tuning.
        one_shot_accuracy: on the reward split as it was scored, before fine-tuning.
        cost: of the final model, costed as it is saved.
        keep_ratio: channels kept over all prunable groups; of groups that leave with a branch none are.
        branches: how many branches are left, and how many the model had that may go; None for a model without any.
        measure: how the accuracies are told.
    """

    name: str
    test_accuracy: float
    reward_accuracy: float
    one_shot_accuracy: float
    cost: CostReport
    keep_ratio: float
    branches: tuple[int, int] | None = None
    measure: Measure = ACCURACY


COLUMNS = (
    Column("model", kind="name"),
    Column("test accuracy"),
    Column("latency"),
    Column("of dense", rank=1),
    Column("HBM", rank=2),
    Column("of dense", rank=5),
    Column("parameters", rank=4),
    Column("MFLOPs/image", rank=7),
    Column("channels", rank=6),
)
_BRANCHES = Column("branches", rank=3)


def result_columns(rows: Sequence[ResultRow]) -> tuple[Column, ...]:
    """The columns of the result table; branches have one where the model has some."""
    columns = (COLUMNS[0], Column(f"test {rows[0].measure.name}"), *COLUMNS[2:])
    return columns if rows[0].branches is None else (*columns, _BRANCHES)


def result_cells(rows: Sequence[ResultRow]) -> list[tuple[str, ...]]:
    """The result table as text, row by row under `result_columns`; shares are of the first row.

    A model that was costed on several targets has a line for each of them.
    """
    dense = rows[0].cost
    cells = []
    for row in rows:
        if not row.cost.parts:
            cells.append(_cells(row, row.name, row.cost, dense))
        for number, (target, cost) in enumerate(row.cost.parts.items()):
            line = _cells(row, f"{row.name}, {target}", cost, dense.parts[target])
            # What is the same on every target stands once.
            cells.append(line if number == 0 else (line[0], "", *line[2:6], *[""] * len(line[6:])))
    return cells


def _cells(row: ResultRow, name: str, cost: CostReport, dense: CostReport) -> tuple[str, ...]:
    """One line of the result table: a model on one target."""
    return (
        name,
        row.measure.tell(row.test_accuracy),
        seconds(cost.latency),
        share_of(cost.latency, dense.latency),
        byte_count(cost.memory.total),
        share_of(cost.memory.total, dense.memory.total),
        f"{cost.parameters:,}",
        f"{megaflops(cost):.2f}",
        f"{row.keep_ratio:.0%}",
        *([] if row.branches is None else ["{} of {}".format(*row.branches)]),
    )


def result_caption(cost: CostReport, measure: Measure = ACCURACY) -> str:
    """What kind of figures the table holds."""
    target = cost.target
    reports = list(cost.parts.values()) or [cost]
    memory = " HBM: weights, activations and code." if any(report.memory.total for report in reports) else ""
    devices = [(report.target.name, report.provenance.get("device", "this host")) for report in reports]
    where = ", ".join(f"{name} ({device})" for name, device in devices)
    return (
        f"Latency per batch of {target.batch_size} on {where}, {target.dtype}: {kinds_of(reports)}.{memory} "
        f"Test {measure.name} after fine-tuning, taken once{', lower is better' * measure.lower_is_better}."
    )


def result_table(rows: Sequence[ResultRow]) -> FittingTable:
    """The result table for the terminal."""
    table = FittingTable(result_columns(rows), caption=result_caption(rows[0].cost, rows[0].measure))
    for cells in result_cells(rows):
        table.add_row(*cells)
    return table


SCORES = {
    "accuracy": "the share of images classified correctly",
    "likelihood": "the geometric mean of the probabilities of the right classes",
    "agreement": "how near the probabilities are to the dense model's",
}
_OTHER_SCORES = {
    "accuracy": "the {} beside the dense model's",
    "likelihood": "from 0 to 1, how likely the labels are by what the model tells",
    "agreement": "how near what the model tells is to what the dense model does",
}


def opening_words(
    name: str, dense: Evaluation, budgets: Sequence[Budget], score: str, images: int, task: Task = CLASSIFICATION
) -> str:
    """What a search starts from, what it may spend, and what it maximises.

    Args:
        name: name of the dense model.
        dense: evaluation of the dense model.
        budgets: absolute limits, one for each search.
        score: a name of `SCORES`.
        images: in the reward split.
        task: what the model is for.
    """
    measure = task.measure
    words = (SCORES if task.classifies else _OTHER_SCORES)[score].format(measure.name)
    cost = dense.required_cost
    memory = f", {byte_count(cost.memory.total)} of HBM" if cost.memory.total else ""
    limits = []
    for budget in budgets:
        told = []
        if budget.latency is not None:
            told.append(f"at most {seconds(budget.latency)} ({share_of(budget.latency, cost.latency)})")
        if budget.memory is not None and cost.memory.total:
            told.append(f"at most {byte_count(budget.memory)} of HBM ({share_of(budget.memory, cost.memory.total)})")
        if told:
            limits.append(" and ".join(told))
    return (
        f"{name}, dense: {measure.name} {measure.tell(dense.accuracy)} on {images:,} images of the reward split; "
        f"{seconds(cost.latency)} per batch of {cost.target.batch_size}{memory} on "
        f"{' and '.join(cost.parts) or cost.target.name} ({cost.kind}). "
        f"Budget: {'; '.join(limits) or 'none'}. "
        f"Score: {score}, {words}, on these images before fine-tuning; {dense.score:.4f} for the dense model."
    )


def shares(cost: CostReport, dense: CostReport, budget: Budget) -> str:
    """How much of the dense model's cost is left, of that which the budget limits, or of the latency without a limit.

    On several targets it is their combined share.
    """
    parts = []
    if budget.latency is not None or budget.memory is None:
        parts.append(f"{share_of(cost.latency, dense.latency)} of the dense latency")
    if budget.memory is not None and cost.memory.total and dense.memory.total:
        parts.append(f"{share_of(cost.memory.total, dense.memory.total)} of the dense memory")
    several = f" ({cost.provenance['combined']} of {len(cost.parts)} targets)" if cost.parts else ""
    return " and ".join(parts) + several


def kinds_of(reports: Sequence[CostReport]) -> str:
    """What kinds of figures costs are, such as `compiler estimate`."""
    return " and ".join(dict.fromkeys(report.kind for report in reports))


def megaflops(cost: CostReport) -> float:
    """Millions of floating-point operations for an image."""
    return cost.flops / cost.target.batch_size / 1e6


def share_of(value: float | None, whole: float | None) -> str:
    """A value as a share of another, such as `59.8%`; `-` where either is not known."""
    return f"{value / whole:.1%}" if value and whole else "-"


def seconds(value: float | None) -> str:
    """A duration with a unit that fits, such as `61.5 us`."""
    if value is None:
        return "-"
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{value * factor:.2f} {unit}"
    return f"{value * 1e6:.1f} us"


def byte_count(value: int | None) -> str:
    """A size in MiB, or in GiB from ten of them on."""
    if value is None:
        return "-"
    return f"{value / 2**20:.2f} MiB" if value < 10 * 2**30 else f"{value / 2**30:.2f} GiB"
