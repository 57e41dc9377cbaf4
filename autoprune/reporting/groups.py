"""The channel groups and branches of a model, for people (tables) and for programs (plain data)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.cost.flops import flops_per_layer
from autoprune.cost.shares import parameters_per_layer, share_of
from autoprune.records import Branch, ChannelGroup, CostReport
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


@dataclass(frozen=True, eq=False, kw_only=True)
class BranchShares:
    """A branch and what its layers hold of the model, as shares from 0 to 1.

    Attributes:
        branch: the branch.
        parameters: share of the parameters.
        flops: share of the floating-point operations.
        latency: share of the latency, by the name of the target; of targets whose reports tell the times of layers.
    """

    branch: Branch
    parameters: float
    flops: float
    latency: Mapping[str, float]


def read_branch_shares(model: Any, branches: Sequence[Branch], costs: Sequence[CostReport]) -> list[BranchShares]:
    """What the layers of each branch hold of a model.

    Args:
        model: the model.
        branches: its branches.
        costs: the model's, each on another target.
    """
    parameters, flops = parameters_per_layer(model), flops_per_layer(model)
    return [
        BranchShares(
            branch=branch,
            parameters=share_of(branch.layers, parameters),
            flops=share_of(branch.layers, flops),
            latency={
                cost.target.name: share_of(branch.layers, cost.layers, cost.latency) for cost in costs if cost.layers
            },
        )
        for branch in branches
    ]


def branch_table(rows: Sequence[BranchShares]) -> FittingTable:
    """Every branch: where it ends, what leaves with it, whether it can, and its shares of the model.

    Args:
        rows: at least one.
    """
    targets = list(rows[0].latency)
    headers = [f"latency on {target}" for target in targets] if len(targets) > 1 else ["latency"] * len(targets)
    columns = [
        Column("branch", kind="name"),
        Column("kind", rank=5, kind="word"),
        Column("ends in", rank=6, kind="name"),
        Column("layers", rank=4),
        Column("groups", rank=7, kind="prose"),
        Column("removable", kind="prose"),
        Column("parameters", rank=2),
        Column("FLOPs", rank=3),
        *(Column(name, rank=int(number > 0)) for number, name in enumerate(headers)),
    ]
    caption = "Parameters, FLOPs, latency: what the branch's layers hold of the model's."
    known = "by the times of layers with FLOPs, as layers=true shows them" if targets else "known of no layer by itself"
    caption += f" Latency: {known}. branches.json has all of it."
    if any(row.branch.kind == "gate" and row.branch.removable for row in rows):
        caption += " Gates go only where constraints.depth names them: off by default."
    table = FittingTable(columns, title="branches", caption=caption)
    for row in rows:
        branch, latency = row.branch, (f"{row.latency[target]:.1%}" for target in targets)
        removable = "yes" if branch.by_default else "if named" if branch.removable else f"no: it {branch.reason}"
        leaving = (str(len(branch.layers)), ", ".join(branch.groups) or "-")
        shares = (f"{row.parameters:.1%}", f"{row.flops:.1%}", *latency)
        table.add_row(branch.name, branch.kind, branch.merge, *leaving, removable, *shares)
    return table


def branch_data(rows: Sequence[BranchShares]) -> list[dict[str, Any]]:
    """The same as JSON, with the paths of all layers and the latency's share on every target."""
    return [
        {
            "name": row.branch.name,
            "kind": row.branch.kind,
            "merge": row.branch.merge,
            "call": row.branch.call,
            "operand": row.branch.operand,
            "layers": list(row.branch.layers),
            "groups": list(row.branch.groups),
            "removable": row.branch.removable,
            "by_default": row.branch.by_default,
            "reason": row.branch.reason,
            "parameters": row.parameters,
            "flops": row.flops,
            "latency": dict(row.latency),
        }
        for row in rows
    ]
