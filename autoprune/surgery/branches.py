"""Takes branches out of a model's graph."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from autoprune.errors import PlanError
from autoprune.graph.branches import find_merge, is_within
from autoprune.models import keras_internals
from autoprune.records import Branch
from autoprune.registry import suggestion


def check_dropped(branches: Sequence[Branch], dropped: Collection[str]) -> None:
    """Refuse to drop what cannot go, by itself or together.

    Args:
        branches: all of the model's.
        dropped: names of those that shall go.

    Raises:
        PlanError: saying why, or which branch has a name like one that does not exist.
    """
    named = {branch.name: branch for branch in branches}
    for name in dropped:
        if name not in named:
            raise PlanError(f"The model has no branch '{name}'. {suggestion(name, named)}")
        if not named[name].removable:
            raise PlanError(f"The branch '{name}' cannot be dropped: it {named[name].reason}.")
    gone = {path for name in dropped for path in named[name].operations}
    together: dict[tuple[str, int], list[Branch]] = defaultdict(list)
    for name in dropped:
        if not is_within(named[name].merge, gone):
            together[named[name].merge, named[name].call].append(named[name])
    for (merge, _), of_merge in together.items():
        if {branch.operand for branch in of_merge} >= set(of_merge[0].needed):
            names = ", ".join(f"'{branch.name}'" for branch in of_merge)
            raise PlanError(f"Nothing enters '{merge}' without {names}: keep one of them.")


def drop_branches(model: Any, branches: Sequence[Branch]) -> tuple[list[Any], set[int]]:
    """Rewire the model so that the merges do without these operands, and all that only they need is gone.

    Args:
        model: the model that they were found in, with all of its connections.
        branches: those that go; together they can.

    Returns:
        The operations that read other tensors than before, and the `id` of those tensors.
    """
    graphs = keras_internals.graphs_by_path(model)
    gone = {path for branch in branches for path in branch.operations}
    operands: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for branch in branches:
        if is_within(branch.merge, gone):
            continue
        prefix, merge = find_merge(graphs, branch)
        operands[prefix][id(merge)].add(branch.operand)
    rewired, entering = [], set()
    for prefix, dropped in operands.items():
        _, changed, tensors = keras_internals.drop_operands(graphs[prefix], dropped)
        rewired += [node.operation for node in changed]
        entering |= {id(tensor) for tensor in tensors}
    return rewired, entering
