"""How a latency is measured, the same on this host and on an attached TPU.

A call from Python costs some hundred microseconds on its own, more than many a pruned network. So the forward pass runs
in a loop on the device, where each iteration needs the one before it, at two lengths in turn: what a longer loop
takes more, over the iterations that it has more, is the time of one forward pass, whatever a call costs.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from autoprune.errors import CostError

PAIRS = 30
FEWEST_PAIRS = 5
# The longer loop takes so much longer than the shorter: a hundred times the jitter of a clock and a call.
SPAN = 0.02
# A slow model gets fewer pairs once they have taken this long, but never fewer than FEWEST_PAIRS.
SECONDS = 10.0
# A loop that is over sooner with so many iterations does nothing.
_MOST_ITERATIONS = 2**22


@dataclass(frozen=True)
class Timing:
    """One measurement.

    Attributes:
        latency: seconds of one iteration, the median over the pairs of runs.
        iqr: interquartile range over the pairs, in seconds.
        runs: pairs of a short and a long loop.
        lengths: iterations of the two loops.
    """

    latency: float
    iqr: float
    runs: int
    lengths: tuple[int, int]


def time_loop(run: Callable[[int], Any], clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Time the iteration of a loop by the slope between two lengths.

    For a fast model it takes `PAIRS` times `SPAN` or little more, for a slow one `SECONDS` and one pair at most, and
    nine iterations for a model of which even `FEWEST_PAIRS` take longer than that.

    Args:
        run: runs so many iterations, and returns when they are done.
        clock: seconds.

    Raises:
        CostError: longer loops do not take longer.
    """

    def seconds(iterations: int) -> float:
        start = clock()
        run(iterations)
        return clock() - start

    run(1)  # whatever is made at the first call
    iterations = 1
    # The fastest of three runs: one that other work holds up would make the loops too short for all that follows.
    while (fastest := min(seconds(iterations) for _ in range(3))) < SPAN / 2:
        if iterations >= _MOST_ITERATIONS:
            raise CostError(f"The model cannot be timed: {iterations} iterations took {fastest:g} s.")
        iterations *= 4
    short, long = loop_lengths(fastest / iterations)
    begun = clock()
    slopes: list[float] = []
    while len(slopes) < PAIRS and (len(slopes) < FEWEST_PAIRS or clock() - begun < SECONDS):
        # A clock rate that rises or falls meets both orders alike.
        first, second = (short, long) if len(slopes) % 2 == 0 else (long, short)
        taken = {first: seconds(first), second: seconds(second)}
        slopes.append((taken[long] - taken[short]) / (long - short))
    low, median, high = (float(value) for value in np.percentile(slopes, [25, 50, 75]))
    if median <= 0:
        raise CostError(
            f"The model cannot be timed: {long} iterations took no longer than {short}. Other work on the device "
            "disturbs the measurement."
        )
    return Timing(median, high - low, len(slopes), (short, long))


def loop_lengths(rough: float) -> tuple[int, int]:
    """Iterations of the short and the long loop, for a rough time of one iteration in seconds.

    The short loop has one iteration, so that what only the first one pays is in both; none where an iteration alone
    takes about as long as `SPAN`, beside which that is nothing and a second iteration only time.
    """
    short = 1 if rough < SPAN / 2 else 0
    return short, short + max(1, math.ceil(SPAN / rough))


def make_loop(forward: Callable[[Any, list[Any]], Any]) -> Callable[..., tuple[list[Any], list[Any]]]:
    """A function that runs a forward pass so many times in a loop on the device, to be compiled by the backend.

    Each iteration writes one element of every input, in place: 1 if the first elements of the last outputs add up to
    more than 0, else 0. Every dtype holds these, so images, indices and flags are served alike. The compiler can
    neither drop an iteration nor move layers out of the loop, and no pass over inputs or outputs is added: the extra
    work is one element for each of them. What depends on weights alone, such as another layout of a kernel, may be
    done once before the loop; and what fits in on-chip memory may stay there between iterations. Compiled for a TPU
    v3 or v5e, an iteration of VGG-16 takes the same time as the plain program within 5 %, by the compiler's estimate.

    Args:
        forward: takes the weights, in any structure, and a list of inputs; returns any structure of outputs.

    Returns:
        A function of the number of iterations (an int32 of the backend), the weights, the inputs, and as many arrays
        as there are outputs, of their shapes. It gives the last inputs and outputs.
    """

    def run(count: Any, state: Any, batch: list[Any], outputs: list[Any]) -> tuple[list[Any], list[Any]]:
        def iteration(_: Any, carry: tuple[list[Any], list[Any]]) -> tuple[list[Any], list[Any]]:
            # The first element of every input depends on the first element of every output; NaN counts as 0.
            total = sum(keras.ops.cast(output[(0,) * len(output.shape)], "float32") for output in carry[1])
            inputs = []
            for array in carry[0]:
                mark = keras.ops.reshape(keras.ops.cast(total > 0, array.dtype), (1,) * len(array.shape))
                inputs.append(keras.ops.slice_update(array, (0,) * len(array.shape), mark))
            return inputs, list(keras.tree.flatten(forward(state, inputs)))

        return keras.ops.fori_loop(0, count, iteration, (list(batch), list(outputs)))

    return run


def example_inputs(shapes: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
    """Inputs to measure with: real numbers in [0, 1), integers and flags 0 or 1, which every embedding knows.

    Args:
        shapes: shape and dtype of each input.
    """
    generator = np.random.default_rng(0)
    return [
        generator.random(shape, np.float32).astype(dtype)
        if "float" in dtype
        else generator.integers(0, 2, shape).astype(dtype)
        for shape, dtype in shapes
    ]
