"""A model's layers in order, with the groups, branches and importance that decide them: plain data for its page."""

from typing import Any

from autoprune.cost.flops import flops_per_layer
from autoprune.graph.branches import is_within
from autoprune.models import keras_internals
from autoprune.planning import Planner
from autoprune.records import ChannelGroup

FORMAT = "autoprune.network"
VERSION = 1


def describe_network(model: Any, planner: Planner) -> dict[str, Any]:
    """What `network.json` holds of a dense model.

    Args:
        model: the dense model.
        planner: its planner, with the importance of every channel.
    """
    operations = keras_internals.operations_by_path(model)
    groups: dict[str, ChannelGroup] = {}
    for group in planner.all_groups:
        # The layers whose output its channels are: those that make them, then those that only follow.
        members = [member.layer for role in ("produces", "follows") for member in group.members if member.role == role]
        groups |= dict.fromkeys(members or [group.name], group)
    may_go = {branch.name for branch in planner.branches}
    # Of branches within each other the smallest, which a layer is drawn in, comes first.
    branches = sorted(planner.all_branches, key=lambda branch: len(branch.operations))
    layers = [
        {
            "path": path,
            "kind": type(operations[path]).__name__,
            "group": groups[path].name if path in groups else None,
            "channels": groups[path].size if path in groups else None,
            "flops": flops,
            "branches": [b.name for b in branches if b.name in may_go and is_within(path, b.operations)],
        }
        for path, flops in flops_per_layer(model).items()
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": model.name,
        "fingerprint": planner.fingerprint,
        "layers": layers,
        "groups": [
            {
                "name": group.name,
                "channels": group.size,
                "prunable": group.prunable,
                "reason": group.reason,
                # Four digits tell channels apart in a picture.
                "importance": [float(f"{score:.4g}") for score in planner.scores[group.name]]
                if group.name in planner.scores
                else None,
            }
            for group in planner.all_groups
        ],
        "branches": [
            {
                "name": branch.name,
                "kind": branch.kind,
                "merge": branch.merge,
                "layers": list(branch.layers),
                "may_go": branch.name in may_go,
                "reason": branch.reason or ("" if branch.name in may_go else "stays by constraints.depth"),
            }
            for branch in planner.all_branches
        ],
        "importance": planner.importance,
    }
