"""The search space: one dimension per decision, and candidates as one option index for each of them.

Everything between a searcher and the surgeon speaks of candidates. Keep ratios are for people: in the public interface,
in settings and in reports.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from autoprune.errors import PlanError
from autoprune.planning.depth import Depth
from autoprune.records import Amount, Plan
from autoprune.settings import Constraints

Candidate = tuple[int, ...]  # An option index for each dimension.

GRID = 64  # Keep ratios that are told apart: every width of a group of 512 channels in steps of 8.
ENUMERATED = 4096  # Candidates at most of which the different ones are counted.
DROP = -0.5  # Offsets below it drop a branch: of random ones a quarter do.


@dataclass(frozen=True, eq=False)
class Dimension:
    """One decision of the search space: how many channels of a group stay, or whether a branch does.

    Attributes:
        name: name of the channel group or branch.
        options: channels that may stay, ascending, the last being all of them; of a branch 0 and 1.
        order: the group's channels, the most important first; none for a branch.
        is_branch: whether it is a branch.
        mean: (channels,) of a gate what replaces it; None for all others.
    """

    name: str
    options: tuple[int, ...]
    order: np.ndarray
    is_branch: bool = False
    mean: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Channels of the whole group."""
        return self.options[-1]

    @cached_property
    def keep_ratios(self) -> np.ndarray:
        """(options,) Share of the channels that each option keeps."""
        return np.array(self.options) / self.size

    def nearest(self, keep_ratios: float | np.ndarray) -> np.ndarray:
        """The options nearest to keep ratios, one or many; of two equally near the one that keeps more."""
        options, wanted = np.array(self.options), np.asarray(keep_ratios) * self.size
        above = np.minimum(np.searchsorted(options, wanted), len(options) - 1)
        below = np.maximum(above - 1, 0)
        return np.where(wanted - options[below] < options[above] - wanted, below, above)

    def at_most(self, keep_ratio: float) -> int:
        """The option that keeps most without keeping more than a share; the first where all keep more."""
        within = np.flatnonzero(np.array(self.options) <= keep_ratio * self.size + 1e-9)
        return int(within[-1]) if len(within) else 0

    def around(self, anchor: float, offsets: float | np.ndarray, minimum: float) -> np.ndarray:
        """The options at these distances from an anchor, see `ratio_around`; below -0.5 a branch goes."""
        if self.is_branch:
            return np.where(np.asarray(offsets) < DROP, 0, len(self.options) - 1)
        return self.nearest(ratio_around(anchor, np.asarray(offsets, float), minimum))


class SearchSpace:
    """Every plan that may be proposed for one model.

    Args:
        dimensions: in data-flow order.
        minimum: keep ratio below which no group is cut, in (0, 1].
        model: fingerprint of the model, which goes into plans.
        importance: name of the criterion that ranked the channels; likewise.
        depth: how its branches are tied, if it has any.

    Attributes:
        dimensions, minimum, depth: as given.
        names: name of each dimension, in their order.
        sizes: (dimensions,) values of the options that keep everything.
        full: the candidate that keeps everything.
        free: positions of the dimensions that have a choice.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        minimum: float,
        *,
        model: str = "",
        importance: str = "",
        depth: Depth | None = None,
    ) -> None:
        self.dimensions = tuple(dimensions)
        self.minimum = minimum
        self.depth = depth
        self.names = tuple(dimension.name for dimension in self.dimensions)
        self.sizes = np.array([dimension.size for dimension in self.dimensions])
        self.full: Candidate = tuple(len(dimension.options) - 1 for dimension in self.dimensions)
        self.free = tuple(position for position, last in enumerate(self.full) if last)
        self._model = model
        self._importance = importance
        most = max(map(len, (dimension.options for dimension in self.dimensions)), default=0)
        # (dimensions, most options); rows are filled up with what keeps everything.
        self._table = np.array([[*d.options, *[d.size] * (most - len(d.options))] for d in self.dimensions])

    def __len__(self) -> int:
        return len(self.dimensions)

    @cached_property
    def count(self) -> float:
        """How many candidates there are; of many with branches those are counted too that stand for the same plan."""
        count = math.prod(last + 1.0 for last in self.full)
        if self.depth is None or count > ENUMERATED:
            return count
        return len(np.unique(self.canonical(list(itertools.product(*(range(last + 1) for last in self.full)))), axis=0))

    def restrict(self, allowed: Mapping[str, Sequence[int]]) -> "SearchSpace":
        """The space with only these values for some dimensions, of those that they have; keeping all always stays."""
        dimensions = []
        for dimension in self.dimensions:
            wanted = {*allowed.get(dimension.name, dimension.options), dimension.size}
            dimensions.append(replace(dimension, options=tuple(sorted(wanted.intersection(dimension.options)))))
        return SearchSpace(dimensions, self.minimum, model=self._model, importance=self._importance, depth=self.depth)

    def canonical(self, candidates: Candidate | Sequence[Candidate] | np.ndarray) -> np.ndarray:
        """(..., dimensions) Candidates of the same plans that keep all where a dimension has no effect.

        Of branches of which one has to stay one is kept.
        """
        found = np.array(candidates, int)
        if self.depth is None:
            return found
        rows = found.reshape(-1, len(self))
        for together in self.depth.together:
            rows[~rows[:, together].any(1), together[-1]] = self.full[together[-1]]
        gone = self.depth.without_effect(self.values(rows)[:, self.depth.positions].astype(bool))
        rows[gone] = np.broadcast_to(self.full, rows.shape)[gone]
        return rows.reshape(found.shape)

    def is_gone(self, candidates: np.ndarray) -> np.ndarray:
        """(m, dimensions) Whether a dimension's channels, or the branch, leave with a branch that is dropped."""
        if self.depth is None:
            return np.zeros(candidates.shape, bool)
        kept = self.values(candidates)[:, self.depth.positions].astype(bool)
        gone = self.depth.without_effect(kept)
        gone[:, self.depth.positions] |= ~kept
        return gone

    def plan(self, candidate: Candidate) -> Plan:
        """The plan that a candidate stands for. Groups that leave with a branch have no channels in it."""
        chosen = self.canonical(candidate)
        gone = self.is_gone(chosen[None])[0]
        each = list(zip(self.dimensions, self.values(chosen).tolist(), gone.tolist(), strict=True))
        dropped = [dimension for dimension, value, _ in each if dimension.is_branch and not value]
        return Plan(
            model=self._model,
            sizes={dimension.name: dimension.size for dimension in self.dimensions if not dimension.is_branch},
            kept={
                dimension.name: np.sort(dimension.order[:value])
                for dimension, value, is_gone in each
                if not dimension.is_branch and not is_gone
            },
            dropped=tuple(dimension.name for dimension in dropped),
            importance=self._importance,
            gate_means={dimension.name: dimension.mean for dimension in dropped if dimension.mean is not None},
        )

    def nearest(self, keep_ratios: float | Mapping[str, float] | Sequence[float] | np.ndarray) -> Candidate:
        """The candidate nearest to keep ratios: one for all groups, by name, or one for each dimension.

        Who is not named keeps all, and of branches keeps all whoever gives one for all groups.
        """
        if isinstance(keep_ratios, Mapping):
            keep_ratios = [keep_ratios.get(name, 1.0) for name in self.names]
        each = np.asarray(keep_ratios, float)
        if each.ndim == 0:
            each = np.where([dimension.is_branch for dimension in self.dimensions], 1.0, each)
        return self._candidate([d.nearest(ratio) for d, ratio in zip(self.dimensions, each, strict=True)])

    def _candidate(self, options: Sequence[Any] | np.ndarray) -> Candidate:
        """The canonical candidate of these options."""
        return tuple(self.canonical(np.asarray(options, int)).tolist())

    def find(self, values: Mapping[str, int]) -> Candidate:
        """The candidate of these values, by name: channels left in groups, and 0 for branches that go.

        Raises:
            PlanError: a dimension is missing, has no such option, or there is none of a branch that goes.
        """
        found = []
        unknown = [name for name, value in values.items() if not value and name not in self.names]
        if unknown:
            raise PlanError(
                f"Expected a plan that drops branches of this search space. Received one without '{unknown[0]}'. The "
                "plan was made with other constraints: search anew, in a new run folder."
            )
        for dimension in self.dimensions:
            value = values.get(dimension.name, dimension.size if self.depth is not None else None)
            if value not in dimension.options:
                raise PlanError(
                    f"Expected one of {list(dimension.options)} channels in '{dimension.name}'. Received: {value}. "
                    "The plan was made with other constraints: search anew, in a new run folder."
                )
            found.append(dimension.options.index(value))
        return self._candidate(found)

    def values(self, candidates: Candidate | Sequence[Candidate] | np.ndarray) -> np.ndarray:
        """(..., dimensions) What each dimension keeps, of candidates (..., dimensions)."""
        return self._table[np.arange(len(self)), np.asarray(candidates, int)]

    def keep_ratios(self, candidates: Candidate | Sequence[Candidate] | np.ndarray) -> np.ndarray:
        """(..., dimensions) Shares that stay, of candidates (..., dimensions)."""
        return self.values(candidates) / self.sizes

    def uniform(self) -> dict[Candidate, float]:
        """Candidates of one keep ratio for all, from keeping everything to the least; each with its first ratio.

        At most 64: keep ratios on an even grid that give the same candidate count once.
        """
        found: dict[Candidate, float] = {}
        for ratio in self.grid():
            found.setdefault(self.nearest(ratio), ratio)
        return found

    def grid(self) -> list[float]:
        """64 keep ratios, evenly spaced from 1 to the least."""
        return np.linspace(1, self.minimum, GRID).tolist()

    def random(self, generator: np.random.Generator, anchor: float) -> Candidate:
        """A candidate of uniformly random widths around an anchor, without a random share of the branches."""
        offsets = generator.uniform(-1, 1, len(self))
        if self.depth is not None:
            count = len(self.depth.positions)
            offsets[list(self.depth.positions)] = np.where(generator.uniform(size=count) < generator.uniform(), -1, 0)
        return self.around(anchor, offsets)

    def around(self, anchor: float, offsets: Sequence[float] | np.ndarray) -> Candidate:
        """The candidate at these distances from an anchor, see `ratio_around`."""
        pairs = zip(self.dimensions, offsets, strict=True)
        return self._candidate([dimension.around(anchor, offset, self.minimum) for dimension, offset in pairs])

    def offsets(self, candidate: Candidate, anchor: float) -> list[float]:
        """The inverse of `around`; of a branch the middle of the offsets that give the option."""
        return [
            (DROP + (1 if dimension.options[option] else -1)) / 2
            if dimension.is_branch
            else offset_of(float(dimension.keep_ratios[option]), anchor, self.minimum)
            for dimension, option in zip(self.dimensions, candidate, strict=True)
        ]

    def shift(self, candidate: Candidate, shifts: np.ndarray) -> np.ndarray:
        """(m, dimensions) Candidates on the line from keeping all channels, through one, to the least; branches stay.

        Args:
            candidate: shift 0.
            shifts: (m,) from -1, everything, to 1, the least.
        """
        ratios, shifts = self.keep_ratios(candidate), np.asarray(shifts)[:, None]
        wider, narrower = ratios - shifts * (1 - ratios), ratios - shifts * (ratios - self.minimum)
        columns = zip(self.dimensions, np.where(shifts < 0, wider, narrower).T, candidate, strict=True)
        return np.stack(
            [np.full(len(shifts), own) if each.is_branch else each.nearest(column) for each, column, own in columns],
            axis=-1,
        )

    def neighbours(
        self, parents: Sequence[Candidate], generator: np.random.Generator, count: int
    ) -> Iterator[Candidate]:
        """Candidates that differ from one of some others in up to three dimensions, by up to three options each."""
        for _ in range(count):
            candidate = list(parents[int(generator.integers(len(parents)))])
            many = min(int(generator.integers(1, 4)), len(candidate))
            for position in generator.choice(len(candidate), many, False):
                step = generator.choice([-3, -2, -1, 1, 2, 3], p=[0.05, 0.15, 0.3, 0.3, 0.15, 0.05])
                moved = int(np.clip(candidate[position] + step, 0, self.full[position]))
                is_branch = self.dimensions[position].is_branch
                candidate[position] = self.full[position] - candidate[position] if is_branch else moved
            yield self._candidate(candidate)

    def by_name(self, candidate: Candidate) -> dict[str, int]:
        """What each dimension keeps, by its name."""
        return dict(zip(self.names, self.values(candidate).tolist(), strict=True))


def legal_widths(size: int, constraints: Constraints, unit: int = 1) -> list[int]:
    """Every width that a group of `size` channels may have, ascending.

    Args:
        size: channels of the group.
        constraints: limits on every group.
        unit: positions of an axis that each channel stands for (`ChannelGroup.unit`): it is these that are counted in
            multiples.

    >>> legal_widths(20, Constraints(multiple_of=8, min_keep_ratio=0.3))
    [8, 16, 20]
    >>> legal_widths(8, Constraints(multiple_of=8, min_keep_ratio=0.3), unit=4)
    [4, 6, 8]
    >>> legal_widths(8, Constraints(multiple_of=None, min_keep_ratio=0.3))
    [4, 6, 8]
    """
    floor = constraints.min_keep_ratio * size
    # Without a multiple the coarsest of these that leaves a choice of two widths besides the dense one, or the finest.
    for multiple in (8, 4, 2, 1) if constraints.multiple_of is None else (constraints.multiple_of,):
        step = multiple // math.gcd(multiple, unit)
        widths = [width for width in range(step, size, step) if width >= floor - 1e-9] + [size]
        if len(widths) > 2:
            break
    return widths


def ratio_around(anchor: float, offset: Amount, minimum: float) -> Amount:
    """Keep ratios by their distance from an anchor: offset -1 is `minimum`, 0 is `anchor`, 1 keeps everything.

    Quadratic on both sides, so that half of the offsets stay within a quarter of the way: one group cut to almost
    nothing ruins a plan whatever the others keep, and evenly spread ratios cut some group that far nearly always
    (`tests/benchmarks/agents.py` compares). Offsets beyond 1 are clipped. With the anchor where uniform pruning meets
    the budget, an offset means the same for every model and budget: fewer or more channels than uniform pruning keeps.

    >>> round(float(ratio_around(0.6, 0.5, 0.1)), 3)
    0.7
    """
    offset = np.clip(offset, -1.0, 1.0)
    return anchor + offset * np.abs(offset) * np.where(offset >= 0, 1 - anchor, anchor - minimum)


def offset_of(ratio: float, anchor: float, minimum: float) -> float:
    """The offset for which `ratio_around` gives a keep ratio; at most 1 on either side.

    >>> round(offset_of(0.7, 0.6, 0.1), 3)
    0.5
    """
    span = (1 - anchor) if ratio >= anchor else (anchor - minimum)
    distance = min(abs(ratio - anchor) / span, 1.0) if span > 0 else 0.0
    return math.copysign(math.sqrt(distance), ratio - anchor)
