"""The rules that keep the house walkable: imports follow the flow, and foreign privates stay in one file."""

import ast
import re
from pathlib import Path

from helpers.places import ROOT

FLOW = (
    *("errors", "registry", "records", "settings", "workers", "models", "tasks", "data", "layers", "graph", "planning"),
    *("surgery", "cost", "evaluation", "searchers", "training", "comparison", "reporting", "envs", "rl", "pipeline"),
    "commands",
)
COMMANDS = {
    "__main__",
    "export",
    "search",
    "finetune",
    "replay",
    "learn",
    "compare",
    "measure",
    "report",
    "cli",
    "options",
    "option_help",
    "resuming",
}
HYDRA_HOMES = {f"autoprune/{name}.py" for name in COMMANDS - {"__main__", "option_help", "resuming"}}
FRAMEWORK_HOMES = {
    "autoprune/cost/compiler/worker.py",
    "autoprune/cost/compiler/programs.py",
    "autoprune/cost/compiler/topology.py",
    "autoprune/cost/compiler/training_program.py",
    "autoprune/cost/compiler/tensorflow_program.py",
    "autoprune/cost/measured/cpu.py",
    "autoprune/cost/measured/jax_timing.py",
    "autoprune/cost/measured/attached_tpu_worker.py",
    "autoprune/evaluation/gated.py",
    "autoprune/evaluation/optional_branches.py",
    "autoprune/evaluation/traced.py",
    "autoprune/layers/tensorflow_tracing.py",
    "autoprune/planning/importance/second_order.py",
    "autoprune/training/jax_devices.py",
    "autoprune/training/tensorflow_batches.py",
    "autoprune/training/tensorflow_devices.py",
    "autoprune/models/exporting/formats.py",
}
SOURCES = sorted([*ROOT.glob("autoprune/**/*.py"), *ROOT.glob("envs/**/*.py")])


def stage_of(module):
    parts = module.split(".")
    if parts[0] != "autoprune" or len(parts) < 2:
        return None
    return "commands" if parts[1] in COMMANDS else parts[1]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "autoprune" else ("autoprune", *parts))


def test_imports_follow_the_flow():
    against = []
    for path in SOURCES:
        here = stage_of(module_of(path))
        if here is not None:
            # What has no place in the flow imports nothing of it.
            later = FLOW[FLOW.index(here) + 1 :] if here in FLOW else FLOW
            found = [name for name in imports_of(path) if stage_of(name) in later]
            against += [f"{path.relative_to(ROOT)} imports {name}" for name in found]
    assert not against


def test_only_commands_use_hydra():
    users = {str(p.relative_to(ROOT)) for p in SOURCES if any(n.split(".")[0] == "hydra" for n in imports_of(p))}
    assert users == HYDRA_HOMES


def test_frameworks_are_imported_only_where_it_is_the_job():
    users = {
        str(p.relative_to(ROOT)) for p in SOURCES if {n.split(".")[0] for n in imports_of(p)} & {"tensorflow", "jax"}
    }
    assert users == FRAMEWORK_HOMES


def test_children_are_started_in_one_place():
    """All else goes by `autoprune.workers.ChildProcess`, and no child is a fork; a GPU's driver is only asked."""
    starters = {"subprocess", "multiprocessing"}
    users = {str(p.relative_to(ROOT)) for p in SOURCES if {n.split(".")[0] for n in imports_of(p)} & starters}
    assert users == {f"autoprune/workers/{name}.py" for name in ("child", "process", "resources")}
    for path in SOURCES:
        assert not re.search(r"\bos\.(fork|forkpty|system|popen|spawn\w+|exec\w+)\(", path.read_text()), path


def test_nothing_is_unpickled_or_evaluated():
    for path in SOURCES:
        assert not {n.split(".")[0] for n in imports_of(path)} & {"pickle", "cloudpickle", "dill", "shelve"}, path
        assert not re.search(r"\b(eval|exec)\(|allow_pickle=True|weights_only=False", path.read_text()), path


def test_private_attributes_of_keras_are_touched_in_one_place():
    """The private names that one package uses on foreign objects appear nowhere else on foreign objects."""
    home = ROOT / "autoprune/models/keras_internals"
    private = {name for path in home.glob("*.py") for name in foreign_privates(path)}
    assert "_inbound_nodes" in private
    for path in SOURCES:
        if path.parent != home:
            assert not private & set(foreign_privates(path)), path


def foreign_privates(path):
    """Attributes with a leading underscore read or set on anything but self and cls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")) and not isinstance(
                owner, ast.Attribute
            ):
                yield node.attr


def test_files_stay_short():
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_top_level_holds_nothing_unexpected():
    allowed = {"pyproject.toml", "autoprune", "envs", "conf", "tests", "outputs", "README.md", "LICENSE"}
    built = {"build", "dist"}
    present = {p.name for p in Path(ROOT).iterdir() if not p.name.startswith(".") and p.suffix != ".egg-info"}
    assert present - built <= allowed
