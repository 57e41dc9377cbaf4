"""What a search from Python gives: the pruned model, the evidence, and how both are looked at in a notebook."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from autoprune.records import Branch, Plan
from autoprune.records.measure import ACCURACY, Measure
from autoprune.reporting.outcome import result_rows
from autoprune.reporting.tables import result_caption, result_cells, result_columns
from autoprune.searchers import History
from autoprune.searchers.policy import Policy
from autoprune.settings.extras import extra
from autoprune.training.finishing import Finished


@dataclass(frozen=True, eq=False, kw_only=True)
class SearchResult:
    """What a search gives. In a notebook it shows itself as its table.

    Attributes:
        model: the pruned and fine-tuned model: the very object that was given, smaller. It is not compiled: call
            `model.compile` to train or evaluate it.
        plan: the plan that was applied.
        policy: what the agent learnt; None for searchers that learn nothing.
        history: every searcher's trials in order.
        kept: the finished plan that the model holds, the best on the reward split.
        finished: the dense model, the best plan of each rule set by hand, and the searched plan, each as finished.
        branches: those that a plan could drop, as they are in the dense model.
        report: the HTML report.
        measure: how accuracies are told.
    """

    model: Any
    plan: Plan = field(repr=False)
    policy: Policy | None = field(repr=False)
    history: Mapping[str, History] = field(repr=False)
    kept: Finished
    finished: tuple[Finished, ...] = field(repr=False)
    branches: tuple[Branch, ...] = field(repr=False)
    report: Path
    measure: Measure = ACCURACY

    def _repr_html_(self) -> str:
        rows = result_rows(self.finished, self.branches, self.measure)
        headers = "".join(f"<th>{escape(column.header)}</th>" for column in result_columns(rows))
        body = []
        for name, *figures in result_cells(rows):
            held = name.split(",")[0] == self.kept.name  # On several targets their names follow.
            first = f"<strong>{escape(name)}</strong>" if held else escape(name)
            body.append(f"<tr><td>{first}</td>{''.join(f'<td>{escape(figure)}</td>' for figure in figures)}</tr>")
        caption = escape(result_caption(rows[0].cost, self.measure))
        return (
            f"<table><thead><tr>{headers}</tr></thead><tbody>{''.join(body)}</tbody></table>"
            f"<p>{caption} The model holds the plan in bold. Report: <code>{escape(str(self.report))}</code></p>"
        )

    def to_dataframe(self) -> Any:
        """Every trial of every searcher as a row of a `pandas.DataFrame`, in their order.

        Columns are `searcher`, `number`, `source`, `reward`, `score`, the measure by its name (as it is told: an error
        is positive), `latency` (seconds per batch), `memory` (bytes), `within_budget`, `dropped`, `seconds`, and the
        keep ratio of each channel group as `keep GROUP`; a group that leaves with a branch has none.

        Raises:
            SettingsError: pandas is not installed.
        """
        pandas: Any = extra("pandas", "SearchResult.to_dataframe", "notebook")
        rows = []
        for searcher, history in self.history.items():
            for trial in history:
                one = trial.evaluation
                quality = one.accuracy if self.measure.is_share else self.measure.sign * one.accuracy
                rows.append(
                    {
                        "searcher": searcher,
                        "number": trial.number,
                        "source": trial.source,
                        "reward": trial.reward,
                        "score": one.score,
                        self.measure.name: quality,
                        "latency": one.cost.latency if one.cost else None,
                        "memory": one.cost.memory.total if one.cost else None,
                        "within_budget": history.objective.met_by(one),
                        "dropped": ", ".join(one.dropped),
                        "seconds": trial.seconds,
                        **{f"keep {name}": ratio for name, ratio in one.keep_ratios.items()},
                    }
                )
        return pandas.DataFrame(rows)

    def plot_front(self, axes: Any = None) -> Any:
        """Every plan's quality before fine-tuning against its latency, and the finished models after it.

        Args:
            axes: of Matplotlib, to draw on; None makes new ones.

        Returns:
            The axes.
        """
        # Imported here: a search draws nothing.
        from matplotlib import pyplot

        axes = pyplot.subplots(figsize=(7, 4.5))[1] if axes is None else axes
        draw = self.measure.draw
        for marker, (searcher, history) in zip("osD^vPX*" * len(self.history), self.history.items(), strict=False):
            known = [one for one in history.evaluations if one.cost is not None and not one.failed]
            places = [(1e6 * one.required_cost.latency, draw(one.accuracy)) for one in known]
            if places:
                axes.scatter(*zip(*places, strict=True), s=18, alpha=0.6, marker=marker, label=searcher)
        for done in self.finished:
            place = 1e6 * done.cost.latency, draw(done.reward_accuracy)
            axes.scatter(*place, s=110, marker="*", color="black" if done.name == "dense" else "crimson", zorder=3)
            axes.annotate(done.name, place, textcoords="offset points", xytext=(6, 6))
        limit = next(iter(self.history.values())).objective.budget.latency if self.history else None
        if limit is not None:
            axes.axvline(1e6 * limit, linestyle="--", color="gray", label="budget")
        axes.set_xlabel("latency per batch (us)")
        axes.set_ylabel(self.measure.label("on the reward split"))
        axes.legend(fontsize="small")
        return axes
