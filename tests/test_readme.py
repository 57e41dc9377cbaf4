"""The README tells what is true: its commands are those that CI runs, its options are those that exist."""

import importlib
import re

import pytest
from places import ROOT

from autoprune.options import config_groups

README = (ROOT / "README.md").read_text()


def test_ci_installs_and_tests_as_the_readme_says():
    commands = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    blocks = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).splitlines()
    for command in ('pip install ".[test]"', "pytest"):
        assert command in commands
        assert command in blocks


@pytest.mark.parametrize("group", ["model", "data", "target", "searcher", "agent", "reward", "importance"])
def test_every_choice_is_named(group):
    row = next(line for line in README.splitlines() if line.startswith(f"| `{group}` |"))
    named = set(re.findall(r"`(\w+)`", row.split("|")[2]))
    assert set(config_groups()[group]) - {"all"} <= named


def test_files_and_commands_named_exist():
    for name in re.findall(r"python (tests/\S+\.py)", README):
        assert (ROOT / name).is_file()
    for module in re.findall(r"python -m autoprune\.(\w+)", README):
        assert (ROOT / "autoprune" / f"{module}.py").is_file()


def test_python_names_exist():
    import autoprune

    for name in re.findall(r"\bautoprune\.(\w+)\(", README):
        assert name in autoprune.__all__


def test_imports_work():
    for module, name in re.findall(r"^from (autoprune\S*) import (\w+)$", README, re.MULTILINE):
        assert hasattr(importlib.import_module(module), name)


def test_packages_are_on_the_map():
    for folder in (ROOT / "autoprune").iterdir():
        if folder.is_dir() and (folder / "__init__.py").exists():
            assert f"| `autoprune/{folder.name}` |" in README
