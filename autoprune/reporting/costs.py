"""Costs of models as tables: inference and training steps, with what failed as a row that says so."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from autoprune.errors import AutopruneError, CostError, DoesNotFitError
from autoprune.records import CostReport, TrainingStepReport
from autoprune.records.plain import from_plain
from autoprune.reporting.fitting import Column, FittingTable, Kind
from autoprune.reporting.tables import byte_count, kinds_of, megaflops, seconds, share_of

_FAR_FROM_PEAK = 0.3  # From here on the bound says little of the latency.
_KINDS: Mapping[str, Kind] = {"target": "word", "model": "name", "bound": "word"}
# What is left out first where there is no room for all; what has no rank stays.
_RANKS = {
    **{"plain sum": 9, "code": 8, "bound": 7, "activations": 6, "weights": 5, "state": 5, "exchanged": 4, "batch": 3},
    **{"of device": 3, "of peak": 2, "HBM": 1},
}


R = TypeVar("R", bound=CostReport | TrainingStepReport)


@dataclass(frozen=True, kw_only=True)
class CostRow(Generic[R]):
    """One model on one target.

    Attributes:
        model: what the model is called in the tables.
        target: such as `tpu_v5e`.
        answer: its cost, or why there is none.
        devices: that share a training step; 0 for inference.
    """

    model: str
    target: str
    answer: R | AutopruneError
    devices: int = 0

    @property
    def failed(self) -> bool:
        """Whether there is no cost."""
        return isinstance(self.answer, AutopruneError)

    @property
    def report(self) -> R:
        """The cost.

        Raises:
            AutopruneError: there is none, and why.
        """
        if isinstance(self.answer, AutopruneError):
            raise self.answer
        return self.answer

    def to_json(self) -> dict[str, Any]:
        """The report with the model's name, or names and the error."""
        if not self.failed:
            return {"model": self.model, **asdict(self.report)}
        devices = {"devices": self.devices} if self.devices else {}
        needed = {"needed": self.answer.needed} if isinstance(self.answer, DoesNotFitError) else {}
        return {"model": self.model, "target": self.target, **devices, **needed, "error": str(self.answer)}


def read_rows(kind: type[R], data: Sequence[Any]) -> list[CostRow[R]]:
    """The rows that `CostRow.to_json` has written, of inference or of training steps.

    Raises:
        ValueError: they are something else.
    """
    rows: list[CostRow[R]] = []
    for row in map(dict, data):
        model, devices = str(row.pop("model")), int(row.get("devices", 0))
        if "error" in row:
            error = CostError(str(row["error"]))
            if "needed" in row:
                error = DoesNotFitError(str(row["error"]), float(row["needed"]), 0.0)
            rows.append(CostRow(model=model, target=str(row["target"]), answer=error, devices=devices))
        else:
            report = from_plain(kind, row)
            rows.append(CostRow(model=model, target=report.target.name, answer=report, devices=devices))
    return rows


def cost_table(rows: Sequence[CostRow[CostReport]]) -> FittingTable:
    """Inference costs: of one model on several targets, or of several models side by side on each.

    Shares are of the first model's on the same target.
    """
    several = len({row.model for row in rows}) > 1
    reports = [row.report for row in rows if not row.failed]
    names = ("target", "model") if several else ("target",)
    figures: tuple[str, ...] = ("latency", "plain sum", "of peak", "bound", "HBM", "weights", "activations", "code")
    if several:
        figures = ("latency", "of first", "plain sum", "of peak", "bound", "HBM", "of first")
    title = None if several else rows[0].model
    caption = "Nothing could be costed."
    if reports:
        one = reports[0]
        caption = "" if several else f"{one.parameters:,} parameters, {megaflops(one):,.1f} MFLOPs per image. "
        caption += (
            f"Per batch of {one.target.batch_size} in {one.target.dtype} on one JAX device (a chip, or one of two "
            f"cores on v2, v3 and tpu7x): {kinds_of(reports)}. Bound: what takes longer at the device's peak, the "
            "FLOPs or the traffic to HBM; no program can be faster than that."
        )
        lowest = min((report.utilisation for report in reports if report.utilisation is not None), default=1.0)
        if lowest < _FAR_FROM_PEAK:
            caption += (
                f" At {_percent(lowest)} of peak it is not the bound that takes the time: tiles of the matrix unit "
                "that channels and images do not fill, what every kernel takes whatever its size, and waiting for "
                "copies do; layers=true shows where."
            )
    table = FittingTable(_columns((*names, *figures)), title=title, caption=caption)
    firsts = {row.target: row.report for row in reversed(rows) if row.model == rows[0].model and not row.failed}
    for number, row in enumerate(rows):
        cells = _failure(row, figures)
        if not row.failed:
            report, first, memory = row.report, firsts.get(row.target), row.report.memory
            timing = [seconds(report.latency), seconds(report.latency_sum)]
            timing += ["-" if report.utilisation is None else _percent(report.utilisation), report.bound or "-"]
            parts = [byte_count(part) for part in (memory.weights, memory.activations, memory.code)]
            if several:
                timing.insert(1, share_of(report.latency, first.latency if first else None))
                parts = [share_of(memory.total, first.memory.total if first else None)]
            cells = [*timing, byte_count(memory.total), *parts]
        ends = several and (number + 1 == len(rows) or rows[number + 1].target != row.target)
        table.add_row(row.target, *((row.model,) if several else ()), *cells, end_section=ends)
    return table


def layer_table(row: CostRow[CostReport], flops: Mapping[str, int]) -> FittingTable:
    """Where the latency of a model goes.

    Args:
        row: of a model that could be costed.
        flops: per image of every layer that has some, by path, in data-flow order.
    """
    report = row.report
    columns = (
        Column("layer", kind="name"),
        Column("latency"),
        Column("of all"),
        Column("FLOPs", rank=2),
        Column("of peak", rank=1),
    )
    caption = f"{report.kind.capitalize()}: known of the model as a whole only, so that all of it is 'other'."
    if report.layers:
        caption = (
            f"{report.kind.capitalize()} of the whole model: a kernel that fuses several layers counts for each in "
            "proportion to its FLOPs, with the normalisation and activation in it. Other: kernels without a layer that "
            "has FLOPs, such as pooling, and waiting for copies."
        )
    table = FittingTable(columns, title=f"{row.model} on {row.target}, layer by layer", caption=caption)
    for path in [path for path in flops if path in report.layers]:
        share = flops[path] / sum(flops.values())
        # The device does the FLOPs of all layers at this share of its peak in the whole latency.
        peak = report.utilisation and report.utilisation * share * report.latency / report.layers[path]
        cells = (f"{share:.1%}", _percent(peak) if peak else "-")
        table.add_row(path, seconds(report.layers[path]), share_of(report.layers[path], report.latency), *cells)
    rest = max(report.latency - sum(report.layers.values()), 0.0)
    table.add_row("other", seconds(rest), f"{rest / report.latency:.1%}", "-", "-")
    return table


def training_table(rows: Sequence[CostRow[TrainingStepReport]]) -> FittingTable:
    """Training steps: each model on one device and on slices of every target."""
    several = len({row.model for row in rows}) > 1
    reports = [row.report for row in rows if not row.failed]
    title = "a training step" if several else f"{rows[0].model}, a training step"
    names = ("target", "model") if several else ("target",)
    figures: tuple[str, ...] = ("latency", "plain sum", "HBM", "of device", "state", "activations", "exchanged")
    if several:
        figures = tuple(name for name in figures if name not in ("plain sum", "state"))
    columns = _columns((*names, "devices", "batch", *figures))
    caption = "No training step could be costed."
    if reports:
        first = reports[0]
        precision = "mixed bfloat16" if first.target.dtype == "bfloat16" else first.target.dtype
        caption = (
            f"{first.optimizer}, {precision}, {first.target.batch_size} examples on each JAX device (a chip, or one of "
            f"two cores on v2, v3 and tpu7x): {first.kind}. Every figure is of one device; batch: on all devices "
            "together. State: weights and the optimiser's slots. Latency leaves out the time in which devices exchange "
            "gradients and statistics, for which the compiler has no estimate: 'exchanged' says how much that is."
        )
    table = FittingTable(columns, title=title, caption=caption)
    for row in rows:
        shared, cells = "-", _failure(row, figures)
        if not row.failed:
            report, memory = row.report, row.report.memory
            found = {
                "latency": seconds(report.latency) if report.fits else "does not fit",
                "plain sum": seconds(report.latency_sum),
                "HBM": byte_count(report.needed),
                "of device": share_of(report.needed, report.capacity),
                "state": byte_count(memory.state if memory else None),
                "activations": byte_count(memory.activations if memory else None),
                "exchanged": byte_count(report.communicated or None),
            }
            shared, cells = f"{report.global_batch_size:,}", [found[name] for name in figures]
        table.add_row(row.target, *((row.model,) if several else ()), str(row.devices), shared, *cells)
    return table


def notes(rows: Sequence[CostRow[Any]]) -> list[str]:
    """One sentence for each error of the rows, which names all rows that have it."""
    places = defaultdict(list)
    for row in rows:
        if row.failed:
            where = f"{row.model} on {row.target}" + (f" x {row.devices}" if row.devices else "")
            places[str(row.answer)].append(where)
    # Of what the compiler says, which may be pages, the beginning: the JSON has all of it.
    return [f"{', '.join(where)}: {words[:700]}{' ...' * (len(words) > 700)}" for words, where in places.items()]


def _failure(row: CostRow[Any], figures: Sequence[str]) -> list[str]:
    """Cells of a row without figures; of a model that is too large, what it needs."""
    found = {"latency": "failed"}
    if isinstance(row.answer, DoesNotFitError):
        found = {"latency": "does not fit", "HBM": byte_count(round(row.answer.needed))}
    return [found.get(name, "-") for name in figures]


def _columns(headers: Sequence[str]) -> list[Column]:
    """By their headers; a share is left out just before what it is a share of."""
    columns = []
    for number, header in enumerate(headers):
        rank = _RANKS.get(headers[number - 1], 0) + 1 if header == "of first" else _RANKS.get(header, 0)
        columns.append(Column(header, rank, _KINDS.get(header, "figure")))
    return columns


def _percent(share: float) -> str:
    """Without digits behind the point, but for what would be 0 %."""
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"
