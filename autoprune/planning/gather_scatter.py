"""Gather-scatter patterns: kernels of which every memory bank is read as often, for machines that gather; not TPUs.

A scratchpad memory of B banks gives B numbers in a step if each lies in a bank of its own; input i lies in bank i mod
B. In the pattern GS(B, R) every R outputs keep as many weights in each bank. They are stored as bundles of B weights,
one for each bank, which multiply B gathered inputs in one step, and no bank waits for another.

GS-style, after Sun et al., 2021, arXiv 2112.10898: the idea, the name, the balance, and that the format is compact are
theirs. How weights are chosen, what R is and how bundles are laid out is a reading of their abstract, as no code of it
is public; their training and their figures are not reproduced.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import PlanError
from autoprune.records.plain import from_plain
from autoprune.records.tensors import read_tensors, write_tensors

FORMAT = "autoprune.bundles"
VERSION = 1
MOST_BANKS = 256  # The place of an output among those that share a bundle is a byte.


@dataclass(frozen=True, kw_only=True)
class GatherScatterSettings:
    """Which pattern GS(B, R).

    Attributes:
        banks: B, banks of the memory and weights of a bundle, from 2 to 256.
        rows: R, outputs that share bundles, from 1 to B.
        density: share of the weights that stays, above 0 and below 1; in every bank it is rounded to whole weights, of
            which one stays at least.

    Raises:
        PlanError: a number cannot be.
    """

    banks: int = 16
    rows: int = 1
    density: float = 0.25

    def __post_init__(self) -> None:
        if not 2 <= self.banks <= MOST_BANKS:
            raise PlanError(f"The banks of a gather-scatter pattern are from 2 to {MOST_BANKS}. Received: {self.banks}")
        if not 1 <= self.rows <= self.banks:
            raise PlanError(f"Bundles are of from 1 to banks={self.banks} outputs. Received: {self.rows}")
        if not 0 < self.density < 1:
            raise PlanError(f"The density is above 0 and below 1. Received: {self.density}")


@dataclass(frozen=True, kw_only=True)
class GatherEstimate:
    """What one kernel takes on a machine that gathers, for one vector of inputs, and what it keeps.

    A step reads one input from each bank at most. Nothing else is counted: neither products nor sums, which the steps
    feed.

    Attributes:
        dense_steps: that read every column of the dense kernel.
        steps: of the pattern, one for each bundle.
        unbalanced_steps: of as many weights, the most salient wherever they lie: of every R outputs, those of the bank
            that is read most often.
        saliency: share of the kernel's saliency that the pattern keeps.
        unbalanced_saliency: the same of the most salient weights, which is the most there is.
        block_saliency: the same of as many weights in blocks of one output and B inputs.
    """

    dense_steps: int
    steps: int
    unbalanced_steps: int
    saliency: float
    unbalanced_saliency: float
    block_saliency: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Bundles:
    """A kernel with a gather-scatter pattern, without its zeros.

    Every R outputs have as many bundles, one behind the other, so that no pointers are needed; where the outputs are no
    multiple of R, the last of them may have fewer. Bundles of 4 banks, R=1 and one bundle for each of two outputs:

        columns [[4, 1, 2, 7],    output 0 is values[0] times the inputs 4, 1, 2 and 7
                 [0, 5, 6, 3]]    output 1 is values[1] times the inputs 0, 5, 6 and 3

    Attributes:
        shape: outputs and columns of the kernel as a matrix; a column is an input, of a convolution an input at one
            place of its window.
        rows: R, outputs that share bundles.
        per_group: bundles of every R outputs.
        values: (bundles, banks), the weights.
        columns: (bundles, banks), 16 or 32 bits: of `columns[:, b]` all are b modulo the banks.
        offsets: (bundles, banks), bytes: which of the R outputs a weight is of; None where R is 1.

    Raises:
        PlanError: the arrays do not fit each other, or are of no such pattern.
    """

    shape: tuple[int, int]
    rows: int
    per_group: int
    values: np.ndarray
    columns: np.ndarray
    offsets: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check(self.values.ndim == 2 and 2 <= self.values.shape[1] <= MOST_BANKS, "values (bundles, banks)", self)
        count, banks = self.values.shape
        _check(1 <= self.rows <= banks and self.per_group >= 1, "from 1 to as many rows as banks, and bundles", self)
        _check(len(self.shape) == 2 and self.shape[1] < 2**31, "a shape of outputs and columns", self)
        whole = count >= 1 and -(-self.shape[0] // self.rows) == -(-count // self.per_group)
        _check(whole, "as many bundles as are of all outputs", self)
        _check((self.offsets is None) == (self.rows == 1), "offsets, unless every output has its own bundles", self)
        offsets = np.zeros(self.values.shape, np.uint8) if self.offsets is None else self.offsets
        for name, array in (("columns", self.columns), ("offsets", offsets)):
            _check(array.shape == self.values.shape and array.dtype.kind in "iu", f"whole {name} of all weights", self)
        columns, outputs = self.columns.astype(np.int64), self.outputs()
        _check(bool((columns % banks == np.arange(banks)).all()), "a weight of each bank, in their order", self)
        _check(columns.min() >= 0 and columns.max() < self.shape[1], "columns of the kernel", self)
        _check(offsets.min() >= 0 and offsets.max() < self.rows, "offsets below rows", self)
        _check(outputs.max() < self.shape[0], "outputs of the kernel", self)
        _check(len(np.unique(outputs * self.shape[1] + columns)) == columns.size, "every weight once", self)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.values.nbytes + self.columns.nbytes + (0 if self.offsets is None else self.offsets.nbytes)

    def outputs(self) -> np.ndarray:
        """(bundles, banks): the output that each weight is of."""
        firsts = np.arange(len(self.values)) // self.per_group * self.rows
        offsets = 0 if self.offsets is None else self.offsets.astype(np.int64)
        return np.broadcast_to(firsts[:, None] + offsets, self.values.shape)

    def multiply(self, vectors: np.ndarray) -> np.ndarray:
        """The reference product: gather the inputs of each bundle, multiply, scatter the products to their outputs.

        Args:
            vectors: (..., columns).

        Returns:
            (..., outputs), what the dense kernel with zeros in it gives.

        Raises:
            PlanError: the vectors have another length.
        """
        if vectors.shape[-1:] != self.shape[1:]:
            raise PlanError(f"The kernel multiplies vectors of {self.shape[1]} inputs. Received: shape {vectors.shape}")
        values = self.values.astype(np.result_type(self.values.dtype, np.float32))
        products = vectors[..., self.columns] * values
        found = np.zeros((self.shape[0], *vectors.shape[:-1]), products.dtype)
        np.add.at(found, self.outputs(), np.moveaxis(products, (-2, -1), (0, 1)))
        return np.moveaxis(found, 0, -1)


def quota(settings: GatherScatterSettings, rows: int, columns: int) -> int:
    """The weights that stay in each bank of a number of outputs; 0 if there are more banks than columns."""
    most = rows * (columns // settings.banks)  # Of the bank that has the fewest.
    return min(most, max(1, round(settings.density * rows * columns / settings.banks)))


def choose_balanced(scores: np.ndarray, settings: GatherScatterSettings) -> np.ndarray:
    """The highest scores of each bank, as many in every bank of R outputs.

    Args:
        scores: (outputs, columns).
        settings: which pattern.

    Returns:
        Booleans in the shape of the scores.
    """
    (outputs, columns), rows, banks = scores.shape, settings.rows, settings.banks
    groups, width = -(-outputs // rows), -(-columns // banks)
    padded = np.full((groups * rows, width * banks), -np.inf)
    padded[:outputs, :columns] = scores
    of_bank = padded.reshape(groups, rows, width, banks).transpose(0, 3, 1, 2).reshape(groups, banks, rows * width)
    ranks = np.argsort(np.argsort(-of_bank, axis=-1, kind="stable"), axis=-1)
    quotas = [quota(settings, min(rows, outputs - top), columns) for top in range(0, outputs, rows)]
    chosen = (ranks < np.array(quotas)[:, None, None]).reshape(groups, banks, rows, width).transpose(0, 2, 3, 1)
    return chosen.reshape(padded.shape)[:outputs, :columns]


def estimate_gathers(scores: np.ndarray, mask: np.ndarray, settings: GatherScatterSettings) -> GatherEstimate:
    """What a kernel takes on a machine that gathers, beside others that keep as many weights.

    Args:
        scores: (outputs, columns), the saliency of the weights.
        mask: what the pattern keeps of them.
        settings: which pattern.
    """
    count, total = int(mask.sum()), float(scores.sum())
    unbalanced = np.zeros(scores.size, bool)
    unbalanced[np.argsort(-scores, axis=None, kind="stable")[:count]] = True
    firsts = np.arange(0, scores.shape[1], settings.banks)
    blocks = np.sort(np.add.reduceat(scores, firsts, axis=1), axis=None)[::-1]
    kept = {
        "saliency": scores[mask].sum(),
        "unbalanced_saliency": scores.ravel()[unbalanced].sum(),
        "block_saliency": blocks[: round(count / settings.banks)].sum(),
    }
    return GatherEstimate(
        dense_steps=_count_steps(np.ones_like(mask), settings),
        steps=_count_steps(mask, settings),
        unbalanced_steps=_count_steps(unbalanced.reshape(mask.shape), settings),
        **{name: float(part) / total if total else 1.0 for name, part in kept.items()},
    )


def to_bundles(matrix: np.ndarray, mask: np.ndarray, *, banks: int, rows: int = 1) -> Bundles:
    """The weights that a gather-scatter pattern keeps, without the others.

    Args:
        matrix: (outputs, columns), the kernel.
        mask: what stays of it, as many weights in every bank of `rows` outputs.
        banks: number of memory banks, which columns take in turn.
        rows: outputs that share bundles.

    Raises:
        PlanError: the mask has another shape, or is not balanced.
    """
    if matrix.ndim != 2 or mask.shape != matrix.shape:
        raise PlanError(f"Expected a matrix and a mask of its shape. Received: {matrix.shape} and {mask.shape}")
    offsets, columns, counts = [], [], []
    for top in range(0, len(mask), rows):
        offset, column = np.nonzero(mask[top : top + rows])
        in_bank = np.bincount(column % banks, minlength=banks)
        counts.append(int(in_bank[0]))
        if counts[-1] < 1 or not (in_bank == counts[-1]).all():
            raise PlanError(
                f"The mask keeps from {in_bank.min()} to {in_bank.max()} weights in the {banks} banks of the outputs "
                f"from {top} on; bundles need as many in each, and one at least. `choose_balanced` makes such masks."
            )
        order = np.argsort(column % banks, kind="stable")  # Bank by bank: a slot of the bundles for each.
        offsets.append(offset[order].reshape(banks, -1).T)
        columns.append(column[order].reshape(banks, -1).T)
    if len(set(counts[:-1])) > 1 or counts[-1] > counts[0]:
        raise PlanError(f"Bundles need as many weights of every {rows} outputs. Received a mask with {set(counts)}.")
    column_kind, offset_kind = place_kinds(matrix.shape[1], rows)
    column, offset = np.concatenate(columns), np.concatenate(offsets)
    output = np.repeat(np.arange(0, len(mask), rows), counts)[:, None] + offset
    return Bundles(
        shape=(matrix.shape[0], matrix.shape[1]),
        rows=rows,
        per_group=counts[0],
        values=matrix[output, column],
        columns=column.astype(column_kind),
        offsets=None if offset_kind is None else offset.astype(offset_kind),
    )


def from_bundles(bundles: Bundles) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `to_bundles`: the matrix with zeros for what does not stay, and the mask."""
    matrix, mask = np.zeros(bundles.shape, bundles.values.dtype), np.zeros(bundles.shape, bool)
    places = bundles.outputs(), bundles.columns
    matrix[places], mask[places] = bundles.values, True
    return matrix, mask


def place_kinds(columns: int, rows: int) -> tuple[np.dtype[Any], np.dtype[Any] | None]:
    """Types of what says where a weight of the bundles lies: of its column, and of its output where several share them.

    Args:
        columns: columns of the kernel.
        rows: outputs that share bundles.
    """
    return np.dtype(np.int16 if columns <= 2**15 else np.int32), None if rows == 1 else np.dtype(np.uint8)


def save_bundles(bundles: Mapping[str, Bundles], path: Path | str, *, note: str = "") -> None:
    """Write the bundles of kernels as safetensors, with a checksum.

    Args:
        bundles: by the paths of the layers.
        path: the file, which is replaced as a whole.
        note: for people who look into the file.
    """
    kernels: dict[str, dict[str, Any]] = {}
    tensors: dict[str, np.ndarray] = {}
    for name, one in bundles.items():
        kernels[name] = asdict(_Kernel(shape=one.shape, rows=one.rows, per_group=one.per_group))
        arrays = {"values": one.values, "columns": one.columns, "offsets": one.offsets}
        tensors |= {f"{name}.{part}": array for part, array in arrays.items() if array is not None}
    write_tensors(Path(path), {"format": FORMAT, "version": VERSION, "note": note, "kernels": kernels}, tensors)


def load_bundles(path: Path | str) -> dict[str, Bundles]:
    """Read the bundles of kernels, by the paths of their layers.

    Raises:
        PlanError: the file is missing, is not of this format and version, is damaged, or holds what cannot be.
    """
    try:
        description, tensors = read_tensors(Path(path), FORMAT, VERSION)
        kernels = from_plain(dict[str, _Kernel], description.get("kernels"), "kernels")
        found: dict[str, Bundles] = {}
        for name, kernel in kernels.items():
            values, columns = (tensors.pop(f"{name}.{part}", None) for part in ("values", "columns"))
            if values is None or columns is None:
                raise ValueError(f"the values or columns of '{name}' are missing")
            found[name] = Bundles(
                shape=kernel.shape,
                rows=kernel.rows,
                per_group=kernel.per_group,
                values=values,
                columns=columns,
                offsets=tensors.pop(f"{name}.offsets", None),
            )
        if tensors:
            raise ValueError(f"'{next(iter(tensors))}' belongs to no kernel")
    except OSError as error:
        raise PlanError(f"Cannot read the bundles '{path}': {error.strerror or error}") from error
    except (ValueError, PlanError) as error:
        raise PlanError(
            f"The bundles '{path}' cannot be used: {error}. Write them anew with python -m autoprune.measure "
            "sparsity=gs16, or with this version's save_bundles."
        ) from error
    return found


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """What a file says of the bundles of one kernel besides their arrays."""

    shape: tuple[int, int]
    rows: int
    per_group: int


def _count_steps(mask: np.ndarray, settings: GatherScatterSettings) -> int:
    """Of every R outputs, the weights in the bank that has most of them."""
    (outputs, columns), rows, banks = mask.shape, settings.rows, settings.banks
    groups, width = -(-outputs // rows), -(-columns // banks)
    padded = np.zeros((groups * rows, width * banks), bool)
    padded[:outputs, :columns] = mask
    return int(padded.reshape(groups, rows * width, banks).sum(1).max(1).sum())


def _check(holds: bool, wanted: str, received: Bundles) -> None:
    if not holds:
        offsets = "none" if received.offsets is None else f"{received.offsets.dtype}{received.offsets.shape}"
        raise PlanError(
            f"Bundles need {wanted}. Received: shape={received.shape}, rows={received.rows}, "
            f"per_group={received.per_group}, values of {received.values.shape}, columns of "
            f"{received.columns.dtype}{received.columns.shape}, offsets: {offsets}"
        )
