"""What a sparsity pattern keeps of each layer's kernel and what that takes, for people (a table) and programs."""

from typing import Any

from autoprune.planning.patterns import NO_LATENCY, Pattern
from autoprune.records import Plan
from autoprune.reporting.fitting import Column, FittingTable


def pattern_table(pattern: Pattern, unread: Plan) -> FittingTable:
    """Layer, density, bytes of the dense kernel and of the pattern; and how many channels nothing reads any more.

    Args:
        pattern: see `find_pattern`.
        unread: the plan without the channels that it leaves unread.
    """
    gone = sum(unread.sizes[name] - len(kept) for name, kept in unread.kept.items())
    channels = f" {gone} channels are read by nothing any more: without them a TPU gains." if gone else ""
    table = FittingTable(
        (
            Column("kernel", kind="name"),
            Column("weights", rank=2),
            Column("density"),
            Column("bytes"),
            Column("of pattern"),
            Column("blocks kept", rank=1),
        ),
        title=f"sparsity of '{name_pattern(pattern)}'",
        caption=f"{NO_LATENCY}{channels} masks.safetensors has the masks.",
    )
    for path, mask in pattern.masks.items():
        dense, needed = pattern.bytes_needed(path)
        blocks = pattern.blocks.get(path)
        shown = "" if blocks is None else f"{int(blocks.sum())} of {blocks.size}"
        table.add_row(path, f"{mask.size:,}", f"{pattern.density(path):.1%}", f"{dense:,}", f"{needed:,}", shown)
    return table


def pattern_data(pattern: Pattern) -> dict[str, Any]:
    """The same as JSON."""
    layers = {}
    for path, mask in pattern.masks.items():
        dense, needed = pattern.bytes_needed(path)
        layers[path] = {
            "weights": mask.size,
            "density": pattern.density(path),
            "bytes": dense,
            "pattern_bytes": needed,
        }
    return {"pattern": name_pattern(pattern), "note": NO_LATENCY, "layers": layers}


def name_pattern(pattern: Pattern) -> str:
    """Such as `2:4 in blocks of 64, 50% of them gone`."""
    asked = pattern.settings
    weights = "all weights" if asked.kept is None else f"{asked.kept}:{asked.of}"
    return (
        weights
        if asked.block is None
        else f"{weights} in blocks of {asked.block}, {asked.block_share:.0%} of them gone"
    )
