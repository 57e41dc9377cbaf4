"""The channel groups of a model, for people (a table) and for programs (plain data)."""

from collections.abc import Sequence
from typing import Any

from autoprune.records import ChannelGroup
from autoprune.reporting.fitting import Column, FittingTable

# What a member does, in the order in which the table tells it.
_WORDS = {
    "produces": "made by",
    "follows": "followed by",
    "consumes": "read by",
    "counts": "counted by",
    "per_channel": "scaled by",
}


def group_table(groups: Sequence[ChannelGroup]) -> FittingTable:
    """Name, channels, frozen and why, and every axis that shrinks with the group."""
    columns = (
        Column("group", kind="name"),
        Column("channels"),
        Column("prunable", kind="prose"),
        Column("coupled axes", rank=1, kind="prose"),
    )
    table = FittingTable(columns, title="channel groups", caption="groups.json has all of it.", lines=True)
    for group in groups:
        lines = []  # One for each role: axes of one layer together, such as `bn.(gamma, beta)[0]`.
        for role, words in _WORDS.items():
            names: dict[tuple[str, int, str], list[str]] = {}
            for member in group.members:
                if member.role == role:
                    # Of an axis that is not all the group's once, what part of it is.
                    positions, length, share = int((member.channels >= 0).sum()), len(member.channels), ""
                    if positions < length:
                        share = f" ({positions} of {length} positions)"
                    elif positions > group.size and positions % group.size == 0:
                        share = f" ({positions // group.size} positions each)"
                    names.setdefault((member.layer, member.axis, share), []).append(member.name)
            axes = []
            for (layer, axis, share), found in names.items():
                name = found[0] if len(found) == 1 else f"({', '.join(found)})"
                axes.append(f"{layer}.{name}" + (f"[{axis}]" if axis >= 0 else "") + share)
            lines += [f"{words} {', '.join(axes)}"] if axes else []
        prunable = "yes" if group.prunable else f"no: {group.reason}"
        table.add_row(group.name, str(group.size), prunable, "\n".join(lines))
    return table


def group_data(groups: Sequence[ChannelGroup]) -> list[dict[str, Any]]:
    """The same as JSON: for every member its layer, variable or attribute, axis, role, and share of the axis."""
    return [
        {
            "name": group.name,
            "channels": group.size,
            "prunable": group.prunable,
            "reason": group.reason,
            "members": [
                {
                    "layer": member.layer,
                    "name": member.name,
                    "axis": member.axis,
                    "role": member.role,
                    "positions": int((member.channels >= 0).sum()),
                    "length": len(member.channels),
                }
                for member in group.members
            ],
        }
        for group in groups
    ]
