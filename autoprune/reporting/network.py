"""A model's layers in order, with the groups, branches and importance that decide them: plain data for its page."""

from typing import Any

from autoprune.cost.flops import flops_per_layer
from autoprune.graph.branches import is_within
from autoprune.models import keras_internals
from autoprune.planning import Planner
from autoprune.records import Branch, ChannelGroup

FORMAT = "autoprune.network"
VERSION = 1


def describe_network(model: Any, planner: Planner) -> dict[str, Any]:
    """What `network.json` holds of a dense model.

    Args:
        model: the dense model.
        planner: its planner, with the importance of every channel.
    """
    operations = keras_internals.operations_by_path(model)
    groups = {layer: group for group in planner.all_groups for layer in _makers(group)}
    may_go = {branch.name for branch in planner.branches}
    # Of branches within each other the smallest, which a layer is drawn in, comes first.
    branches = sorted(planner.all_branches, key=lambda branch: len(branch.operations))
    layers = []
    for path, flops in flops_per_layer(model).items():
        group = groups.get(path)
        layers.append(
            {
                "path": path,
                "kind": type(operations[path]).__name__,
                "group": group.name if group else None,
                "channels": group.size if group else None,
                "flops": flops,
                "branches": [b.name for b in branches if b.name in may_go and is_within(path, b.operations)],
            }
        )
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": model.name,
        "fingerprint": planner.fingerprint,
        "layers": layers,
        "groups": [_describe_group(group, planner) for group in planner.all_groups],
        "branches": [_describe_branch(branch, branch.name in may_go) for branch in planner.all_branches],
        "importance": planner.importance,
    }


def _makers(group: ChannelGroup) -> list[str]:
    """Layers whose output the channels of a group are: those that make them, then those that only follow."""
    made = [member.layer for member in group.members if member.role == "produces"]
    followed = [member.layer for member in group.members if member.role == "follows"]
    return list(dict.fromkeys([*made, *followed])) or [group.name]


def _describe_group(group: ChannelGroup, planner: Planner) -> dict[str, Any]:
    scores = planner.scores.get(group.name)
    return {
        "name": group.name,
        "channels": group.size,
        "prunable": group.prunable,
        "reason": group.reason,
        # Four digits tell channels apart in a picture.
        "importance": None if scores is None else [float(f"{score:.4g}") for score in scores],
    }


def _describe_branch(branch: Branch, may_go: bool) -> dict[str, Any]:
    reason = branch.reason or ("" if may_go else "stays by constraints.depth")
    return {
        "name": branch.name,
        "kind": branch.kind,
        "merge": branch.merge,
        "layers": list(branch.layers),
        "may_go": may_go,
        "reason": reason,
    }
