"""Finds branches: operands of sums, concatenations and products that these stay valid without.

The residual function of a block, one of several parallel paths, the new features of a dense block, the gate of a
product (`gates.py`). With a branch goes whatever only it needs: found by a walk back from the operand over calls whose
every reader is in the branch already.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from autoprune.graph.gates import Gate, find_gate, fold_gates
from autoprune.graph.groups import find_groups, list_members, resolve_slots
from autoprune.graph.trace import trace
from autoprune.graph.walk import Walk
from autoprune.layers import Merge, exact_kind_of
from autoprune.layers.record import Operand
from autoprune.models import keras_internals
from autoprune.records import Branch, ChannelGroup, Member


def find_branches(model: Any, groups: Sequence[ChannelGroup] | None = None) -> tuple[Branch, ...]:
    """The branches of a model and then of those nested in it, in data-flow order; who cannot be removed says why.

    Args:
        model: a built Functional or Sequential Keras model. It is read, never changed.
        groups: its channel groups, if they are known already.

    Raises:
        ModelError: the model is subclassed, or not built.

    Example:
        >>> [branch.name for branch in autoprune.find_branches(model) if branch.removable]
        ['sum[0]']
    """
    groups = find_groups(model) if groups is None else groups
    sites = list(_list_sites(model))
    operations = set(keras_internals.operations_by_path(model))
    # Gates last: whatever they begin with, other branches keep their names.
    others = [site for site in sites if site.gate is None]
    _name(others, operations)
    _name([site for site in sites if site.gate is not None], operations | {site.name for site in others})
    # By `id` of an object the paths of the operations that refer to it.
    holders: dict[int, set[str]] = defaultdict(set)
    for path, operation in keras_internals.operations_by_path(model).items() if sites else ():
        for key in () if keras_internals.is_graph(operation) else keras_internals.reachable(operation):
            holders[key].add(path)
    _refuse_what_others_use(sites, holders)
    folds = fold_gates(model, [site.gate for site in sites if site.gate is not None and not site.reason], holders)
    for site in sites:
        fold = folds.get(site.key)
        if isinstance(fold, str):
            site.reason = fold
        elif fold is not None:
            site.folds = fold
    members = _axes_behind_concatenations(model, [site for site in sites if site.merge.kind == "concatenation"])
    return tuple(
        Branch(
            name=site.name,
            kind="gate" if site.merge.kind == "product" else site.merge.kind,
            merge=site.path,
            shape=tuple(site.node.outputs[0].shape[1:]),
            call=site.call,
            operand=site.operand,
            needed=site.merge.needed or _whole_operands(site.node, site.merge),
            layers=tuple(site.layers),
            operations=tuple(site.owned),
            groups=tuple(_groups_that_leave(groups, site, members.get(site.key, ()))),
            removable=not site.reason,
            reason=site.reason,
            members=tuple(members.get(site.key, ())),
            folds=site.folds,
        )
        for site in sites
    )


@dataclass(kw_only=True)
class _Site:
    """An operand of a merge that owns layers.

    `owned` are the operations that leave with it, by path; `layers` the paths of those of them that are layers.
    """

    node: Any
    operand: int
    merge: Merge
    path: str
    call: int
    owned: dict[str, Any]
    layers: list[str]
    reason: str
    gate: Gate | None
    name: str = ""
    folds: tuple[Member, ...] = ()

    @property
    def key(self) -> Operand:
        return id(self.node), self.operand


def find_merge(graphs: Mapping[str, Any], branch: Branch) -> tuple[str, Any]:
    """The call that a branch ends in.

    Args:
        graphs: of the model that it was found in, see `keras_internals.graphs_by_path`, with all of their connections.
        branch: the branch.

    Returns:
        Which of the graphs has the call, and the call.
    """
    prefix, _, name = branch.merge.rpartition("/")
    prefix = f"{prefix}/" if prefix else ""
    calls = [node for node in keras_internals.nodes_of(graphs[prefix]) if node.operation.name == name]
    return prefix, calls[branch.call]


def observe_merges(
    model: Any,
    branches: Sequence[Branch],
    batches: Iterable[Any],
    observe: Callable[[Branch, Sequence[Any], Any, Callable[[Sequence[Any]], list[Any]]], None],
) -> None:
    """Run a model eagerly, in inference mode, and hand what the merges of some branches read and give to a function.

    Every call of a nested model is observed. Nothing of the model changes.

    Args:
        model: with all of its connections.
        branches: whose merges are looked at.
        batches: inputs as the model takes them, one batch after the other.
        observe: called with a branch, the tensors that its merge reads, what that gives, and what runs it on others.
    """
    graphs = keras_internals.graphs_by_path(model)
    at: dict[int, list[Branch]] = defaultdict(list)
    prefixes = set()
    for branch in branches:
        prefix, merge = find_merge(graphs, branch)
        prefixes.add(prefix)
        at[id(merge)].append(branch)

    def run(graph: Any, values: dict[int, Any], run_call: keras_internals.RunCall) -> None:
        for call in keras_internals.nodes_of(graph):
            if call.is_input:
                continue
            tensors = [values[id(tensor)] for tensor in call.input_tensors]
            outputs = run_call(call, tensors)
            values.update(zip(map(id, call.outputs), outputs, strict=True))
            for branch in at.get(id(call), ()):
                observe(branch, tensors, outputs[0], partial(run_call, call))

    with (
        keras_internals.running({graphs[prefix]: partial(run, graphs[prefix]) for prefix in prefixes}),
        keras_internals.without_gradients(),
    ):
        for batch in batches:
            keras_internals.run_on(model, batch)


def is_within(path: str, owners: Collection[str]) -> bool:
    """Whether an operation is one of some, or part of one of them: of a nested model, or a layer that holds layers."""
    parts = path.split("/")
    return any("/".join(parts[:end]) in owners for end in range(1, len(parts) + 1))


def _list_sites(model: Any) -> Iterator[_Site]:
    """Every operand of a merge, in the model or a nested one, that owns a layer."""
    graphs = keras_internals.graphs_by_path(model)
    homes = Counter(id(operation) for graph in graphs.values() for operation in graph.operations)
    # Losses, metrics and targets know one of several outputs by the name of the operation that gives it.
    structure = keras_internals.output_structure(model)
    named = structure if isinstance(structure, (list, tuple)) and len(structure) > 1 else ()
    for prefix, graph in graphs.items():
        nodes = keras_internals.nodes_of(graph)
        calls: dict[int, list[Any]] = defaultdict(list)
        for node in nodes:
            calls[id(node.operation)].append(node)
        walk = Walk(graph)
        for node in nodes:
            kind = exact_kind_of(node.operation) if len(node.input_tensors) > 1 else None
            merge = None if kind is None else kind.merge(node.operation)
            if merge is None:
                continue
            operands: Sequence[int] = range(len(node.input_tensors))
            if merge.kind == "product":
                place = find_gate(node, walk)
                operands = [] if place is None else [place]
            for operand in operands:
                inside = walk.calls_within(node, operand)
                ids = {id(call) for call in inside}
                owned = {
                    prefix + call.operation.name: call.operation
                    for call in inside
                    if homes[id(call.operation)] == 1 and all(id(c) in ids for c in calls[id(call.operation)])
                }
                layers = [path for path, operation in owned.items() if isinstance(operation, keras.Layer)]
                if not layers:
                    continue
                yield _Site(
                    node=node,
                    operand=operand,
                    merge=merge,
                    path=prefix + node.operation.name,
                    call=calls[id(node.operation)].index(node),
                    owned=owned,
                    layers=layers,
                    reason=_refusal(node, operand, merge, inside, () if prefix else named),
                    gate=Gate(node=node, operand=operand, inside=inside, walk=walk, prefix=prefix)
                    if merge.kind == "product"
                    else None,
                )


def _refusal(node: Any, operand: int, merge: Merge, inside: Sequence[Any], named: Sequence[Any]) -> str:
    """Why the merge cannot do without an operand; empty when it can."""
    if any(inner.is_input or isinstance(inner.operation, keras.layers.InputLayer) for inner in inside):
        return "is all that reads an input of the model"
    if operand in merge.needed:
        return f"is what '{node.operation.name}' gives when all else is removed"
    whole = _whole_operands(node, merge)
    if whole == (operand,):
        return f"is the only operand of '{node.operation.name}' that has the shape of its output"
    if not whole:
        return f"ends in '{node.operation.name}', of which no operand has the shape of its output"
    if any(tensor is output for tensor in node.outputs for output in named):
        return f"ends in '{node.operation.name}', one of the outputs that go by their layers' names"
    return ""


def _whole_operands(node: Any, merge: Merge) -> tuple[int, ...]:
    """The operands any of which the merge can be left with: but for concatenations those neither broadcast nor cast."""
    (output,) = node.outputs
    whole = (tuple(output.shape), output.dtype)
    return tuple(
        place
        for place, tensor in enumerate(node.input_tensors)
        if merge.kind == "concatenation" or (tuple(tensor.shape), tensor.dtype) == whole
    )


def _name(sites: Sequence[_Site], operations: Iterable[str]) -> None:
    """Name every branch by what its layers' paths begin with; by merge and operand where that says too little."""
    taken = set(operations)
    begins = []
    for site in sites:
        first, last = min(site.layers), max(site.layers)
        same = next((n for n, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), len(first))
        # What all begin with, to the end of a word.
        begins.append(first if same == len(first) else first[: max(map(first[:same].rfind, "_/.-")) + 1].rstrip("_/.-"))
    for begin, site in zip(begins, sites, strict=True):
        own = begin and begin not in taken and begins.count(begin) == 1
        call = f"#{site.call + 1}" if site.call else ""
        site.name = begin if own else f"{site.path}{call}[{site.operand}]"


def _refuse_what_others_use(sites: Sequence[_Site], holders: Mapping[int, set[str]]) -> None:
    """Keep branches with a layer or variable that an operation outside holds, such as a kernel read for its values."""
    for site in sites:
        if site.reason:
            continue
        for path, operation in site.owned.items():
            own = [operation, *operation.variables] if isinstance(operation, keras.Layer) else [operation]
            users = {user for part in own for user in holders.get(id(part), ()) if not is_within(user, site.owned)}
            if users:
                site.reason = f"holds '{path}', which '{min(users)}' uses too"
                break


def _axes_behind_concatenations(model: Any, sites: Sequence[_Site]) -> dict[Operand, list[Member]]:
    """For every operand of a concatenation the axes behind it that hold its channels.

    There each operand gets numbers of its own for its channels, so that what carries them is found however they are
    tied to others before. An operand that hands on what another one has given is left to another walk.
    """
    found: dict[Operand, list[Member]] = {}
    pending = {site.key: site for site in sites if not site.reason}
    while pending:
        traced = trace(model, set(pending))
        slots, merged, reasons = resolve_slots(traced)
        runs = {key: np.unique(merged[ids]) for key, ids in traced.renamed.items()}
        members = list_members(slots, list(runs.values()), merged)
        numbers = np.bincount(merged)
        for (key, run), axes in zip(runs.items(), members, strict=True):
            site = pending.pop(key)
            frozen = next((reasons[int(channel)] for channel in run if int(channel) in reasons), "")
            emptied = next((member for member in axes if (member.channels >= 0).all()), None)
            own = np.bincount(merged[traced.renamed[key]], minlength=len(numbers))
            if (numbers[run] > own[run]).any():
                site.reason = f"has channels that are tied to others behind '{site.path}'"
            elif frozen:
                site.reason = f"has channels that must stay behind '{site.path}': one {frozen}"
            elif emptied is not None:
                site.reason = f"is all that '{emptied.layer}' reads of '{site.path}'"
            else:
                found[key] = axes
        for key in traced.unknown & pending.keys():
            site = pending.pop(key)
            site.reason = f"has channels that cannot be followed into '{site.path}'"
    return found


def _groups_that_leave(groups: Sequence[ChannelGroup], site: _Site, lost: Sequence[Member]) -> Iterator[str]:
    """Names of the groups that are nowhere else: every axis is in the branch, or loses the group's positions."""
    gone: dict[tuple[str, str, int], np.ndarray] = {}
    for member in lost:
        key = (member.layer, member.name, member.axis)
        gone[key] = gone.get(key, False) | (member.channels >= 0)
    for group in groups:
        rest = [member for member in group.members if not is_within(member.layer, site.owned)]
        if len(rest) < len(group.members) and all(
            np.all((member.channels < 0) | gone.get((member.layer, member.name, member.axis), False)) for member in rest
        ):
            yield group.name
