"""The channel groups of a model, for people (a table) and for programs (plain data)."""

from collections.abc import Sequence
from typing import Any

from autoprune.records import ChannelGroup, Member
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
        prunable = "yes" if group.prunable else f"no: {group.reason}"
        table.add_row(group.name, str(group.size), prunable, "\n".join(_member_lines(group)))
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


def _member_lines(group: ChannelGroup) -> list[str]:
    """One line for each role: axes of one layer together."""
    lines = []
    for role, words in _WORDS.items():
        by_layer: dict[tuple[str, int, str], list[str]] = {}
        for member in group.members:
            if member.role == role:
                key = (member.layer, member.axis, _share(member, group.size))
                by_layer.setdefault(key, []).append(member.name)
        if by_layer:
            lines.append(f"{words} " + ", ".join(_axis(*key, names) for key, names in by_layer.items()))
    return lines


def _axis(layer: str, axis: int, share: str, names: list[str]) -> str:
    """Such as `bn.(gamma, beta)[0]`, or `dense.kernel[0] (8 of 24 positions)`."""
    name = names[0] if len(names) == 1 else f"({', '.join(names)})"
    return f"{layer}.{name}" + (f"[{axis}]" if axis >= 0 else "") + share


def _share(member: Member, size: int) -> str:
    """What part of the axis the group's channels are, where that is not all of it once."""
    positions, length = int((member.channels >= 0).sum()), len(member.channels)
    if positions < length:
        return f" ({positions} of {length} positions)"
    return f" ({positions // size} positions each)" if positions > size and positions % size == 0 else ""
