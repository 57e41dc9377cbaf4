"""Cost on several targets at once: a plan is as expensive as it is on the target where it is worst, or on average.

Seconds on different chips do not compare. What compares is the share of the dense model's cost that is left on each.
The joint latency is the worst of these shares (or their weighted mean) times the dense model's latency on the first
target, and memory likewise: a budget that is a share then holds, with `worst`, on every target.
"""

import dataclasses
import functools
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from autoprune.cost.compiler.pool import CompilerPool
from autoprune.cost.model import CostModel, open_cost_model, resolve_target
from autoprune.errors import CostError, TargetError
from autoprune.records import CostReport, Target
from autoprune.settings import TargetSettings

WORST = "worst"


class MultiTargetCostModel:
    """Costs models on several targets; the first model that it is asked for is the dense one.

    Args:
        models: one for each target, the first target's first.
        weights: weight of each target in the weighted mean; None takes the worst target.
        client: compiler processes that the models share, to close with them; or None.

    Attributes:
        target: the first one.
        targets: all of them.
        combine: `worst`, or `weighted` with the weights.
    """

    def __init__(
        self, models: Sequence[CostModel], weights: Sequence[float] | None = None, client: CompilerPool | None = None
    ) -> None:
        self.target = models[0].target
        self.targets = tuple(model.target for model in models)
        self.combine = WORST if weights is None else f"weighted {', '.join(f'{weight:g}' for weight in weights)}"
        self._models = tuple(models)
        self._weights = weights
        self._client = client
        self._dense: tuple[Future[CostReport], ...] | None = None

    def submit(self, model: Any) -> Future[CostReport]:
        """Ask for the cost of a model on every target.

        Returns:
            A future of the joint report, with each target's in `parts`; its exception is a `CostError` that names the
            target, also when the dense model could not be costed.

        Raises:
            CostError: a target's cost model refuses the model at once.
        """
        asked = tuple(inner.submit(model) for inner in self._models)
        if self._dense is None or any(answer.done() and answer.exception() for answer in self._dense):
            self._dense = asked
        joint: Future[CostReport] = Future()
        dense = self._dense

        waiting = {*asked, *dense}
        lock, left = threading.Lock(), len(waiting)

        def count(_: Future[CostReport]) -> None:
            """With the last answer, give the joint report, or the first target's failure."""
            nonlocal left
            with lock:
                left -= 1
                if left:
                    return
            for answers in (dense, asked):
                for target, done in zip(self.targets, answers, strict=True):
                    error = done.exception()
                    if error is not None:
                        joint.set_exception(CostError(f"On {target.name}: {error}"))
                        return
            try:
                reports, whole = ([done.result() for done in answers] for answers in (asked, dense))
                joint.set_result(combine_reports(reports, whole, self._weights))
            except Exception as error:  # noqa: BLE001 - the asker must hear of it, or it waits for ever
                words = f"The targets' costs cannot be combined: {type(error).__name__}: {error}"
                joint.set_exception(CostError(words))

        for future in waiting:
            future.add_done_callback(count)
        return joint

    def close(self) -> None:
        """Close the models, and the compiler processes that they share."""
        for model in self._models:
            model.close()
        if self._client is not None:
            self._client.close()


def combine_reports(
    reports: Sequence[CostReport], dense: Sequence[CostReport], weights: Sequence[float] | None = None
) -> CostReport:
    """One report of several targets' reports.

    Args:
        reports: reports of one model, one for each target, the first target's first.
        dense: reports of the dense model, in the same order.
        weights: weight of each target in the weighted mean of shares; None takes the worst share.

    Returns:
        The first target's report. Latency is the dense latency there x the combined share of the dense latency, and so
        for the total memory and the layers' times; figures that do not combine are None.
    """
    first = reports[0]
    shares = [report.latency / whole.latency for report, whole in zip(reports, dense, strict=True)]
    combined, share = _weigh(shares, weights)
    # Seconds by layer add up as the joint latency does: the surrogate learns layer by layer.
    layers: dict[str, float] = {}
    for report, whole, weight in zip(reports, dense, combined, strict=True):
        for path, seconds in report.layers.items() if weight else ():
            layers[path] = layers.get(path, 0.0) + weight * seconds * dense[0].latency / whole.latency
    # Without a total where a target cannot tell it.
    totals = [
        report.memory.total / whole.memory.total
        for report, whole in zip(reports, dense, strict=True)
        if report.memory.total and whole.memory.total
    ]
    total = None
    if dense[0].memory.total is not None and len(totals) == len(reports):
        # Rounded up: within a limit, every target is.
        total = math.ceil(dense[0].memory.total * _weigh(totals, weights)[1] - 1e-6)
    return dataclasses.replace(
        first,
        latency=dense[0].latency * share,
        latency_sum=None,
        latency_iqr=None,
        memory=dataclasses.replace(first.memory, total=total),
        traffic=None,
        utilisation=None,
        bound=None,
        layers=layers,
        provenance={
            **first.provenance,
            "route": "; ".join(dict.fromkeys(str(report.provenance.get("route", "")) for report in reports)),
            "combined": WORST if weights is None else "weighted mean",
        },
        parts={report.target.name: report for report in reports},
    )


def _weigh(values: Sequence[float], weights: Sequence[float] | None) -> tuple[list[float], float]:
    """Weights that add up to one, all of it on the worst where there are none, and the values' mean by them."""
    if weights is None:
        worst = max(range(len(values)), key=values.__getitem__)
        normalized = [float(number == worst) for number in range(len(values))]
    else:
        normalized = [weight / sum(weights) for weight in weights]
    return normalized, sum(value * weight for value, weight in zip(values, normalized, strict=True) if weight)


def resolve_targets(settings: TargetSettings) -> list[Target]:
    """The targets that a search is for, checked; the first one first.

    Raises:
        TargetError: one cannot be used here, or `auto` is one that is also named.
    """
    found = [resolve_target(Target(name, settings.batch_size, settings.dtype)) for name in settings.names]
    names = [target.name for target in found]
    for name in names[1:]:
        if names.count(name) > 1 or "cpu" in names:
            raise TargetError(
                f"target.also={settings.also} does not go with target={settings.name}, which is {names[0]} here: "
                "several targets are TPUs, each named once."
            )
    return found


def open_targets(settings: TargetSettings, *, measured: str | Path | None = None) -> CostModel:
    """Something that costs models on the target that settings ask for, or on all of them. Close it when done.

    Several targets share their compiler processes.

    Args:
        settings: which targets, cache, route and number of processes.
        measured: file where measured costs are kept, or None; see `open_cost_model`.

    Raises:
        TargetError: a target cannot be used here.
    """
    open_one = functools.partial(open_cost_model, cache=settings.cache, measured=measured, route=settings.route)
    if not settings.also:
        target = Target(settings.name, settings.batch_size, settings.dtype)
        return open_one(target, processes=settings.processes)
    client = CompilerPool(settings.processes)
    models = [open_one(target, client=client) for target in resolve_targets(settings)]
    weights = (settings.weights or [1.0] * len(models)) if settings.combine == "weighted" else None
    return MultiTargetCostModel(models, weights, client)


def describe_target(cost_model: CostModel) -> Mapping[str, Any]:
    """What a cost is for, as plain data: the target, and of several targets all of them and how they are combined."""
    data = dataclasses.asdict(cost_model.target)
    if isinstance(cost_model, MultiTargetCostModel):
        names = [target.name for target in cost_model.targets]
        data = {**data, "name": names, "combine": cost_model.combine}
    return data
