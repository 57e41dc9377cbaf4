"""Guesses the cost of a plan from the costs of others, in well under a millisecond.

The compiler tells the time of every kernel and the layers in it. A layer's time depends on few widths: its own and
those of its neighbours, with which it may be fused. So each layer is learnt by itself and the latency is their sum:
some dozens of compilations teach more than hundreds of sums would. A guess steers a search. It is never a result:
every figure that is reported comes from a `CostModel`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from autoprune.cost.layers import LayerDependence
from autoprune.cost.surrogate.regression import NEAR, OWN, PLACE, TILE, Fit, Stack, fit
from autoprune.records import CostReport

LEAST = 12  # Plans below which nothing is guessed.
MOST = 300  # Plans that are learnt from, the latest ones: more would make a query slow.
NEIGHBOURS = 1  # Layers on either side that a layer's time is thought to depend on: it may be fused with them.
TILES = (8, 128)  # Sublanes and lanes of a TPU's tiles: T(8, 128).
RECENT = 50  # Guesses by which the error is judged.


class Guess(NamedTuple):
    """What a plan is thought to cost.

    Attributes:
        latency: seconds per batch.
        memory: bytes of device memory in total; None where the target does not tell it.
    """

    latency: float
    memory: float | None


@dataclass(frozen=True)
class GuessError:
    """How good guesses have been, on plans that had not been learnt from when they were guessed.

    Attributes:
        count: guesses compared, at most the latest 50.
        latency: mean error of the latency, relative to the truth.
        memory: mean error of the memory, relative to the truth; None where the target does not tell it.
        spearman: rank correlation of guessed and true latencies.
    """

    count: int
    latency: float
    memory: float | None
    spearman: float


class Surrogate:
    """Learns what plans of one model cost on one target.

    What a plan keeps is told by a value for each dimension of the search space: channels left of a group, and for a
    branch 1, or 0 where it is gone. A layer that leaves with a branch takes no time, and those next to it have other
    neighbours.

    Args:
        sizes: (dimensions,) the values of the dense model.
        layers: how its layers depend on them, from `layer_dependences`.
    """

    def __init__(self, sizes: np.ndarray, layers: Sequence[LayerDependence]) -> None:
        self._sizes = np.asarray(sizes, float)
        self._layers = tuple(layers)
        self._space = _Space(self._sizes, self._layers)
        self._seen: dict[tuple[int, ...], CostReport] = {}
        self._judged: list[tuple[float, float, float | None]] = []
        self._error: GuessError | None = None  # Of these, once it is asked for.
        self._chosen: tuple[int, dict[str, Fit]] = (0, {})
        self._latency: Stack | None = None
        self._memory: Stack | None = None

    @property
    def ready(self) -> bool:
        """Whether enough has been learnt to guess."""
        return len(self._seen) >= LEAST

    @property
    def error(self) -> GuessError | None:
        """How good the latest guesses were; None before there were any."""
        judged = self._judged[-RECENT:]
        if not judged or self._error is not None:
            return self._error
        guessed, true, memory = zip(*judged, strict=True)
        known = [value for value in memory if value is not None]
        self._error = GuessError(
            count=len(judged),
            latency=float(np.mean(np.abs(np.array(guessed) / true - 1))),
            memory=float(np.mean(known)) if known else None,
            spearman=float(spearmanr(guessed, true)[0]) if len(judged) > 2 else math.nan,
        )
        return self._error

    @property
    def guesses(self) -> list[tuple[float, float]]:
        """Latencies in seconds as they were guessed, each with the truth, in the order in which they were told."""
        return [(guessed, true) for guessed, true, _ in self._judged]

    def observe(self, widths: np.ndarray, cost: CostReport) -> None:
        """Learn from a plan that has been costed, after comparing the cost with the guess of it.

        A plan seen before changes nothing.

        Args:
            widths: (dimensions,) what the plan keeps.
            cost: the truth.
        """
        key = tuple(int(width) for width in widths)
        if key in self._seen:
            return
        if self.ready:
            guess = self.predict(widths)
            memory = abs(guess.memory / cost.memory.total - 1) if guess.memory and cost.memory.total else None
            self._judged.append((guess.latency, cost.latency, memory))
            self._error = None
        self._seen[key] = cost
        self._latency = self._memory = None

    def predict(self, widths: np.ndarray) -> Guess:
        """Guess what a plan that keeps (dimensions,) values costs.

        Raises:
            ValueError: fewer than 12 plans have been seen.
        """
        latencies, memories = self.predict_all(np.asarray(widths)[None])
        return Guess(float(latencies[0]), None if memories is None else float(memories[0]))

    def predict_all(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Guess what many plans cost.

        Args:
            widths: (m, dimensions) what they keep.

        Returns:
            (m,) seconds per batch, and (m,) bytes of device memory or None.

        Raises:
            ValueError: fewer than 12 plans have been seen.
        """
        latency = self._learn() if self._latency is None else self._latency
        features = self._space.features(np.asarray(widths, float))
        present = self._space.present(np.asarray(widths))
        memory = None if self._memory is None else np.maximum(self._memory.predict(features), 0.0)
        return np.maximum(latency.predict(features, present), 0.0), memory

    def _learn(self) -> Stack:
        """What predicts latency; what predicts memory is kept beside it."""
        if not self.ready:
            raise ValueError(f"A guess needs {LEAST} plans or more. Seen: {len(self._seen)}")
        recent = list(self._seen.items())[-MOST:]
        features = np.stack([self._space.features(np.array(key, float)) for key, _ in recent])
        costs = [cost for _, cost in recent]
        # Length scales are chosen anew whenever there are a quarter more plans.
        counted, fits = self._chosen
        keep = fits if len(self._seen) < 1.25 * counted else {}
        learnt = {}

        present = self._space.present(np.array([key for key, _ in recent]))

        def one(name: str, values: Sequence[float], term: tuple[list[int], list[int]], layer: int = -1) -> Fit:
            choice = keep[name].choice if name in keep else None
            # A layer is learnt from the plans that have it.
            rows = slice(None) if present is None else present[:, layer]
            learnt[name] = fit(features[rows][:, term[0]], term[1], np.array(values, float)[rows], choice)
            return learnt[name]

        terms = self._space.terms
        own = [
            one(path, [cost.layers.get(path, 0.0) for cost in costs], term, layer)
            for layer, (path, term) in enumerate(terms.items())
        ]
        rest = [cost.latency - sum(cost.layers.get(path, 0.0) for path in terms) for cost in costs]
        whole = self._space.whole
        self._latency = latency = Stack([*own, one("", rest, whole)], [*(term[0] for term in terms.values()), whole[0]])
        totals = [cost.memory.total for cost in costs if cost.memory.total is not None]
        if len(totals) == len(costs):
            self._memory = Stack([one("memory", totals, whole)], [whole[0]])
        if not keep:
            self._chosen = (len(self._seen), learnt)
        return latency


class _Space:
    """From widths to features: for each layer the lengths of its axes and its neighbours', and how tiles are filled.

    Where branches may go, also what kind of layers come next to it and to the branch that it is in: the last block of
    a stage is compiled in another way when the block behind it is gone.

    Attributes:
        terms: for each layer, by path, the columns of its features and their kinds.
        whole: columns and kinds of the features for what belongs to no layer.
    """

    def __init__(self, sizes: np.ndarray, layers: Sequence[LayerDependence]) -> None:
        axes = list(dict.fromkeys(axis for layer in layers for axis in layer.axes if axis.owners))
        self._dense = np.array([axis.length for axis in axes], float)
        self._share = np.zeros((len(axes), len(sizes)))
        for row, axis in enumerate(axes):
            for index, owned in axis.owners:
                self._share[row, index] += owned
        self._sizes = sizes
        self._branches = [list(layer.branches) for layer in layers]
        own = [[axes.index(axis) for axis in layer.axes if axis.owners] for layer in layers]
        self._work = [(layer.flops, columns, list(layer.branches)) for layer, columns in zip(layers, own, strict=True)]
        # Layers are of one kind if they have the same operations and axes; the last row is where there is none.
        self._kinds = np.array(
            [(math.log2(1 + one.flops), math.log2(math.prod(axis.length for axis in one.axes))) for one in layers]
            + [(0.0, 0.0)]
        )
        first = len(axes) * (1 + len(TILES))
        last = first + len(sizes) + 1
        self._around = [around for number in range(len(layers)) for around in self._sides(number)]
        self.terms = {}
        for number, layer in enumerate(layers):
            near = [*own[max(number - NEIGHBOURS, 0) : number], *own[number + 1 : number + 1 + NEIGHBOURS]]
            mine = list(dict.fromkeys(own[number]))
            others = [column for column in dict.fromkeys(itertools.chain(*near)) if column not in mine]
            tiles = [column + len(axes) * (1 + tile) for column in mine for tile in range(len(TILES))]
            columns = [*mine, *others, *tiles]
            kinds = [OWN] * len(mine) + [NEAR] * len(others) + [TILE] * len(tiles)
            for side, around in enumerate(self._sides(number)):
                if any(self._branches[other] for other in around):
                    begin = last + (2 * number + side) * self._kinds.shape[1]
                    columns = [*columns, *range(begin, begin + self._kinds.shape[1])]
                    kinds = [*kinds, *[PLACE] * self._kinds.shape[1]]
            self.terms[layer.path] = columns, kinds
        kinds = [NEAR] * len(sizes) + [OWN]
        self.whole = (list(range(first, last)), kinds)

    def _sides(self, number: int) -> tuple[list[int], list[int]]:
        """Layers that may be next before and behind a layer and the branch that it is in, the nearest first.

        Each side ends with a layer that is always there, if there is one.
        """
        own = set(self._branches[number])
        sides: tuple[list[int], list[int]] = ([], [])
        orders = range(number - 1, -1, -1), range(number + 1, len(self._branches))
        for found, order in zip(sides, orders, strict=True):
            for other in order:
                if own and own <= set(self._branches[other]):
                    continue
                found.append(other)
                if not self._branches[other]:
                    break
        return sides

    def present(self, widths: np.ndarray) -> np.ndarray | None:
        """(m, layers + 1) Whether plans have each layer, and True for the rest; None where all always do."""
        if not any(self._branches):
            return None
        there = [(widths[:, branches] > 0).all(1) for branches in self._branches]
        return np.stack([*there, np.ones(len(widths), bool)], axis=1)

    def features(self, widths: np.ndarray) -> np.ndarray:
        """All features of plans: log2 of each axis's length, share of each tile left empty, widths, operations.

        Args:
            widths: (dimensions,) of one plan, or (m, dimensions).
        """
        left = 1 - (1 - widths / self._sizes) @ self._share.T
        lengths = self._dense * left
        # Of an axis that leaves with a branch nobody asks for the length.
        parts = [np.log2(np.maximum(lengths, 0.5))]
        parts += [(np.ceil(lengths / tile - 1e-9) * tile - lengths) / tile for tile in TILES]
        work = sum(
            flops * math.prod([*(left[..., column] for column in columns), *(widths[..., b] for b in branches)])
            for flops, columns, branches in self._work
        )
        # Many widths together weigh as much as one; a branch that is gone as much as half of a width.
        octaves = np.log2(np.where(widths > 0, widths, 0.5))
        parts += [octaves / math.sqrt(widths.shape[-1]), np.log2(np.maximum(work, 1))[..., None]]
        if any(self._branches):
            # Kinds of the nearest layer on either side of each that the plan leaves.
            there = np.stack([(widths[..., branches] > 0).all(-1) for branches in self._branches], axis=-1)
            nothing = len(self._branches)
            found = np.full((*widths.shape[:-1], len(self._around)), nothing)
            for side, around in enumerate(self._around):
                if around:
                    nearest = there[..., around].argmax(-1)
                    found[..., side] = np.where(there[..., around].any(-1), np.array(around)[nearest], nothing)
            parts.append(self._kinds[found].reshape(*widths.shape[:-1], -1))
        return np.concatenate(parts, axis=-1)
