"""A network as a picture: its layers in order, how wide they were and are, what went, and the time each takes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoprune.graph.branches import is_within
from autoprune.records import CostReport
from autoprune.reporting.pages.page import Fragment, Part, Table, Text
from autoprune.reporting.tables import seconds

_FOLDED = 30  # Layers from which their table is folded: the ribbons show them all.
_DRAWN = 60  # Channels of a group that its importance is drawn with; of more their quantiles.


def draw_network(
    network: Mapping[str, Any], plan: Mapping[str, Any], gone: Mapping[str, str], dense: CostReport, held: CostReport
) -> list[Part]:
    """The network before and after, as ribbons of time and layer by layer.

    Args:
        network: as `network.json`.
        plan: the saved model's plan, as JSON.
        gone: groups that leave with a branch, and with which.
        dense: cost of the dense model.
        held: cost of the saved model.
    """
    dropped = set(plan["dropped"])
    widths = {name: 0 if group["kept"] is None else len(group["kept"]) for name, group in plan["groups"].items()}
    # A branch may take others with it that lie within it.
    lost = [path for branch in network["branches"] if branch["name"] in dropped for path in branch["layers"]]
    layers = []
    for layer in network["layers"]:
        away, whole = is_within(layer["path"], lost), layer["channels"]
        left = 0 if away else widths.get(layer["group"], whole)
        layers.append({**layer, "gone": away or (left == 0 and layer["group"] in gone), "left": left})
    timed = bool(dense.layers) and bool(held.layers)
    parts: list[Part] = []
    if timed:
        parts.append(_ribbons(layers, dense, held))
    parts.append(_layers(layers, network["branches"], dense if timed else None, held))
    return parts


def _ribbons(layers: Sequence[Mapping[str, Any]], dense: CostReport, held: CostReport) -> Fragment:
    """Dense and pruned on one scale of time: a block for each layer, as long as it takes, as high as it is wide."""
    widest = max(layer["channels"] or 1 for layer in layers)
    # Measured layer by layer they may take longer than all at once.
    whole = max(dense.latency, held.latency, sum(dense.layers.values()), sum(held.layers.values()))
    rows = []
    for name, cost in (("before", dense), ("after", held)):
        bars = []
        for number, layer in enumerate(layers):
            time = cost.layers.get(layer["path"], 0.0)
            if not time:
                continue
            channels = layer["channels"] if name == "before" else layer["left"]
            bars.append(
                {
                    "width": 100 * time / whole,
                    "height": 18 + 82 * math.sqrt((channels or 1) / widest),
                    "look": ("leaving" if layer["gone"] and name == "before" else "layer")
                    + (" odd" if number % 2 else ""),
                    "title": f"{layer['path']}: {seconds(time)}, {channels or 'unknown'} channels",
                }
            )
        rest = max(cost.latency - sum(cost.layers.values()), 0.0)
        if rest > 0.005 * whole:
            bars.append(
                {
                    "width": 100 * rest / whole,
                    "height": 18,
                    "look": "rest",
                    "title": f"the rest: {seconds(rest)}",
                }
            )
        drawn = sum(bar["look"] != "rest" for bar in bars)
        rows.append(
            {
                "name": name,
                "words": f"{drawn} layers, {seconds(cost.latency)} per batch",
                "bars": bars,
                "summary": f"{name}: {drawn} layers take {seconds(cost.latency)} per batch; the table lists them.",
            }
        )
    scale = (
        "Both on one scale of time, in the order of the network: the longer a block, the longer its layer takes; the "
        "higher, the more channels it has. Hatched: layers that go. Low and pale: what belongs to no layer with "
        "operations, such as waiting for copies."
    )
    return Fragment(template="ribbons", values={"rows": rows, "scale": scale})


def _layers(
    layers: Sequence[Mapping[str, Any]],
    branches: Sequence[Mapping[str, Any]],
    dense: CostReport | None,
    held: CostReport,
) -> Fragment:
    """Layer by layer, in blocks: all branches that end in one merge."""
    widest = max(layer["channels"] or 1 for layer in layers)
    longest = max(dense.layers.values()) if dense else 1.0
    # For each layer the block that it stands in: the largest branch of the merge that its own ends in; or nothing.
    merges = {branch["name"]: branch["merge"] for branch in branches}
    largest = {branch["merge"]: branch["name"] for branch in sorted(branches, key=lambda branch: len(branch["layers"]))}
    of = [largest[merges[layer["branches"][0]]] if layer["branches"] else "" for layer in layers]
    # In the order of their first layers; what lies in another operand of the same merge stands with it.
    order = {name: number for number, name in reversed(list(enumerate(of))) if name}
    places = [order.get(name, number) for number, name in enumerate(of)]
    blocks: list[dict[str, Any]] = []
    for number in sorted(range(len(layers)), key=lambda number: places[number]):
        layer, name = layers[number], of[number]
        if not blocks or not name or blocks[-1]["name"] != name:
            blocks.append({"name": name, "gone": False, "words": "", "layers": []})
        whole, left = layer["channels"], layer["left"]
        had = dense.layers.get(layer["path"], 0.0) if dense else 0.0
        has = held.layers.get(layer["path"], 0.0) if dense else 0.0
        channels = "-" if whole is None else "gone" if layer["gone"] else f"{whole}"
        if whole is not None and not layer["gone"] and left != whole:
            channels = f"{whole} \u2192 {left}"
        shares = "-" if dense is None else f"{had / dense.latency:.1%} \u2192 {has / held.latency:.1%}"
        blocks[-1]["layers"].append(
            {
                "name": layer["path"],
                "kind": layer["kind"],
                "channels": channels,
                "latency": f"{had / dense.latency:.1%} \u2192 gone" if dense and layer["gone"] else shares,
                # Square roots: what is narrow shall still be seen beside what is wide.
                "whole": round(100 * math.sqrt((whole or 0) / widest), 1),
                "left": 0 if layer["gone"] else round(100 * math.sqrt((left or 0) / widest), 1),
                "had": round(100 * had / longest, 1),
                "has": round(100 * has / longest, 1),
                "seconds": (had, has),
                "gone": layer["gone"],
            }
        )
    for block in blocks:
        block["gone"] = all(layer["gone"] for layer in block["layers"])
        if block["name"] and dense:
            had, has = (sum(layer["seconds"][place] for layer in block["layers"]) for place in (0, 1))
            now = "gone" if block["gone"] else f"{has / held.latency:.1%} of the latency now"
            block["words"] = f"{had / dense.latency:.1%} of the latency before, {now}"
        elif block["gone"]:
            block["words"] = "gone"
    caption = (
        "Outline: before; filled: after. Channels are drawn by their square roots. The shares of the latency are each "
        "of their own model's, the bars are times on one scale."
    )
    return Fragment(template="layers", values={"rows": blocks, "folded": len(layers) > _FOLDED, "caption": caption})


def draw_importance(network: Mapping[str, Any], plan: Mapping[str, Any]) -> list[Part]:
    """The importance of every group's channels, the highest first, and where the cut is."""
    rows = []
    for group in network["groups"]:
        scores, planned = group["importance"], plan["groups"].get(group["name"])
        if not scores or planned is None:
            continue
        ranked, kept = np.sort(np.asarray(scores, float))[::-1], planned["kept"]
        left = 0 if kept is None else len(kept)
        if len(ranked) > _DRAWN:
            places = np.linspace(0, len(ranked) - 1, _DRAWN).round().astype(int)
            ranked, cut = ranked[places], left / group["channels"]
        else:
            cut = left / len(ranked)
        low = min(float(ranked.min()), 0.0)
        heights = (ranked - low) / ((float(ranked.max()) - low) or 1.0)
        words = f"{left} of {group['channels']}" if kept is not None else f"{group['channels']}, gone with its block"
        middle, at = round(cut * len(heights)), round(100 * cut, 1)
        rows.append(
            {
                "name": group["name"],
                "words": words,
                "kept": _outline(heights, 0, middle),
                "cut": _outline(heights, middle, len(heights)),
                "at": at if 0 < left < group["channels"] else 0,
                "summary": f"{group['name']}: {words} channels stay",
            }
        )
    if not rows:
        return []
    caption = (
        f"Channels of each group by importance ({network['importance']}), the most important first; each group has its "
        "own scale. Filled: they stay; outlined: they go. The line is the cut."
    )
    return [Fragment(template="importances", values={"rows": rows, "caption": caption})]


def _outline(heights: np.ndarray, first: int, last: int) -> str:
    """The path of bars side by side, in a box of 100 by 40; empty for none."""
    if first >= last:
        return ""
    step = 100 / len(heights)
    corners = [f"M{first * step:.1f} 40"]
    corners += [f"V{40 - 38 * heights[number]:.1f}H{(number + 1) * step:.1f}" for number in range(first, last)]
    return "".join([*corners, "V40Z"])


def list_frozen(network: Mapping[str, Any] | None, left_alone: Mapping[str, str]) -> list[Part]:
    """Groups and branches that could not go or were left as they are, with the reason; nothing of no network."""
    if network is None:
        return []
    groups = {group["name"]: group["reason"] for group in network["groups"] if not group["prunable"]} | dict(left_alone)
    rows = [(name, "channels", reason) for name, reason in groups.items()]
    rows += [(one["name"], one["kind"], one["reason"]) for one in network["branches"] if not one["may_go"]]
    if not rows:
        return [Text(words=["Nothing: every group of channels was open to the search."])]
    return [Table(columns=("what", "kind", "why"), rows=rows)]
