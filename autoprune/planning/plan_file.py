"""Plans as JSON, with a format name and a version."""

from pathlib import Path
from typing import Any

import numpy as np

from autoprune.errors import PlanError
from autoprune.records import Plan
from autoprune.records.plain import read_json, write_json

FORMAT = "autoprune.plan"
VERSION = 2


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    groups = {
        name: {"size": int(size), "kept": [int(i) for i in plan.kept[name]] if name in plan.kept else None}
        for name, size in plan.sizes.items()
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": plan.model,
        "importance": plan.importance,
        "groups": groups,
        "dropped": list(plan.dropped),
        **({"left_whole": dict(plan.left_whole)} if plan.left_whole else {}),
        **({"gate_means": {name: mean.tolist() for name, mean in plan.gate_means.items()}} if plan.gate_means else {}),
    }


def plan_from_json(data: Any) -> Plan:
    """The inverse of `plan_to_json`.

    Raises:
        PlanError: the data are not a plan of this version, or its indices cannot be.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PlanError(f"Expected a plan (format '{FORMAT}'). Received: {str(data)[:80]!r}")
    if data.get("version") != VERSION:
        raise PlanError(
            f"This version of autoprune reads plans of version {VERSION}, which name branches too. Received: "
            f"version={data.get('version')!r}. Make the plan anew for its model, with this version."
        )
    try:
        groups = data["groups"]
        sizes = {name: int(group["size"]) for name, group in groups.items()}
        # Null is a group that leaves with a branch.
        kept = {name: np.array(group["kept"]) for name, group in groups.items() if group["kept"] is not None}
        left_whole = {str(name): str(why) for name, why in data.get("left_whole", {}).items()}
        plan = Plan(
            model=str(data["model"]),
            sizes=sizes,
            kept=kept,
            dropped=tuple(map(str, data["dropped"])),
            importance=str(data.get("importance", "")),
            left_whole=left_whole,
            gate_means={str(name): np.array(mean, np.float32) for name, mean in data.get("gate_means", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PlanError(f"The plan is malformed: {type(error).__name__}: {error}") from error
    plan.check_indices()
    return plan


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan to a JSON file."""
    write_json(Path(path), plan_to_json(plan))


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a JSON file.

    Raises:
        PlanError: the file is missing, is not JSON, has changed since it was written, or is not a plan.

    Example:
        >>> autoprune.save_plan(autoprune.make_plan(model, 0.5), "plan.json")
        >>> autoprune.load_plan("plan.json").keep_ratios["second"]
        0.5
    """
    try:
        data = read_json(Path(path), by_hand=True)
    except OSError as error:
        raise PlanError(f"Cannot read the plan '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise PlanError(f"The plan '{path}' cannot be used: {error}") from error
    return plan_from_json(data)
