"""What a sparsity pattern keeps of each layer's kernel and what that takes, for people (a table) and programs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from autoprune.planning.gather_scatter import GatherScatterSettings
from autoprune.planning.patterns import NO_LATENCY, Pattern
from autoprune.records import Plan
from autoprune.reporting.fitting import Column, FittingTable


def pattern_table(pattern: Pattern, unread: Plan, flops: Mapping[str, int] | None = None) -> FittingTable:
    """Layer, density, bytes of the dense kernel and of the pattern; and how many channels nothing reads any more.

    Of a gather-scatter pattern also the steps of a machine that gathers and the saliency that is kept, beside those of
    as many weights chosen in other ways.

    Args:
        pattern: see `find_pattern`.
        unread: the plan without the channels that it leaves unread.
        flops: operations for an image of each layer, by path; without them no sum over layers is told.
    """
    gone = sum(unread.sizes[name] - len(kept) for name, kept in unread.kept.items())
    channels = f" {gone} channels are read by nothing any more: without them a TPU gains." if gone else ""
    columns = [
        Column("kernel", kind="name"),
        Column("weights", rank=2),
        Column("density"),
        Column("bytes"),
        Column("of pattern"),
    ]
    if isinstance(pattern.settings, GatherScatterSettings):
        columns += [
            Column("dense steps", rank=1),
            Column("steps"),
            Column("unbalanced", rank=1),
            Column("saliency"),
            Column("at most", rank=1),
            Column(f"1x{pattern.settings.banks} blocks", rank=1),
        ]
        files = "masks.safetensors has the masks, bundles.safetensors the weights."
    else:
        columns.append(Column("blocks kept", rank=1))
        files = "masks.safetensors has the masks."
    table = FittingTable(
        columns,
        title=f"sparsity of '{name_pattern(pattern)}'",
        caption=f"{NO_LATENCY}{channels}{_describe_machine(pattern, flops or {})} {files}",
    )
    for path, mask in pattern.masks.items():
        dense, needed = pattern.bytes_needed(path)
        if path in pattern.estimates:
            found = pattern.estimates[path]
            shares = (found.saliency, found.unbalanced_saliency, found.block_saliency)
            steps = (found.dense_steps, found.steps, found.unbalanced_steps)
            cells = [*(f"{count:,}" for count in steps), *(f"{share:.1%}" for share in shares)]
        else:
            blocks = pattern.blocks.get(path)
            cells = ["" if blocks is None else f"{int(blocks.sum())} of {blocks.size}"]
        table.add_row(path, f"{mask.size:,}", f"{pattern.density(path):.1%}", f"{dense:,}", f"{needed:,}", *cells)
    return table


def pattern_data(pattern: Pattern, flops: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The same as JSON."""
    layers: dict[str, dict[str, Any]] = {}
    for path, mask in pattern.masks.items():
        dense, needed = pattern.bytes_needed(path)
        layers[path] = {
            "weights": mask.size,
            "density": pattern.density(path),
            "bytes": dense,
            "pattern_bytes": needed,
        }
        if path in pattern.estimates:
            layers[path] |= asdict(pattern.estimates[path])
    found = {"pattern": name_pattern(pattern), "note": NO_LATENCY, "layers": layers}
    if isinstance(pattern.settings, GatherScatterSettings):
        found |= {"left_dense": dict(pattern.left_dense), "steps_per_image": sum_steps(pattern, flops or {})}
    return found


def sum_steps(pattern: Pattern, flops: Mapping[str, int]) -> dict[str, int]:
    """Steps for an image of a machine that gathers: of the `dense` kernels, of the `pattern`, and `unbalanced`.

    A kernel is read at every position of its output, as often as its operations tell, two for each weight.

    Args:
        pattern: a gather-scatter pattern.
        flops: operations for an image of each layer, by path.

    Returns:
        nothing where the operations of a layer are not known.
    """
    if not pattern.estimates.keys() <= flops.keys():
        return {}
    times = {path: flops[path] // (2 * pattern.masks[path].size) for path in pattern.estimates}
    steps = {
        "dense": {path: found.dense_steps for path, found in pattern.estimates.items()},
        "pattern": {path: found.steps for path, found in pattern.estimates.items()},
        "unbalanced": {path: found.unbalanced_steps for path, found in pattern.estimates.items()},
    }
    return {name: sum(times[path] * count for path, count in of.items()) for name, of in steps.items()}


def name_pattern(pattern: Pattern) -> str:
    """Such as `2:4 in blocks of 64, 50% of them gone`, or `gs16x4, 0.25 of the weights kept`."""
    asked = pattern.settings
    if isinstance(asked, GatherScatterSettings):
        return f"gs{asked.banks}{f'x{asked.rows}' if asked.rows > 1 else ''}, {asked.density:.3g} of the weights kept"
    weights = "all weights" if asked.kept is None else f"{asked.kept}:{asked.of}"
    return (
        weights
        if asked.block is None
        else f"{weights} in blocks of {asked.block}, {asked.block_share:.0%} of them gone"
    )


def _describe_machine(pattern: Pattern, flops: Mapping[str, int]) -> str:
    """What a gather-scatter pattern saves on a machine for it, and which layers are without."""
    if not isinstance(pattern.settings, GatherScatterSettings):
        return ""
    told = f" Steps are a what-if too, of a machine that gathers from {pattern.settings.banks} banks at once"
    if steps := sum_steps(pattern, flops):
        balanced, unbalanced = (steps[name] / steps["dense"] for name in ("pattern", "unbalanced"))
        told += (
            f": for an image {balanced:.1%} of the dense kernels', and {unbalanced:.1%} if as many of the most salient "
            "weights stay in whatever bank they are (unbalanced)"
        )
    left = "; ".join(f"{path} ({why})" for path, why in pattern.left_dense.items())
    return f"{told}.{f' Left dense: {left}.' if left else ''}"
