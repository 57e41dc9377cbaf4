"""The published tables are those of the JSON files beside them."""

import importlib.util
import re

import pytest

from helpers.places import ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", BENCHMARKS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_what_the_script_makes_of_the_json_files(tables):
    assert (BENCHMARKS / "results" / "RESULTS.md").read_text() == tables.render(), "run tests/benchmarks/tables.py"
    assert tables.README.read_text() == tables.fill(tables.README.read_text()), "run tests/benchmarks/tables.py"


def test_every_json_file_has_its_tables_and_its_command(tables):
    sections = re.split(r"^## ", tables.render(), flags=re.MULTILINE)
    for path in (BENCHMARKS / "results").glob("*.json"):
        (section,) = [text for text in sections if f"[{path.name}]({path.name}), made by" in text]
        assert "| --- |" in section
        assert re.search(r"^    .*(python|pytest) ", section, re.MULTILINE)


def test_a_difference_is_marked_only_beyond_chance(tables):
    assert tables.points({"mean": 0.012, "low": 0.001, "high": 0.023}) == "+1.20 ± 1.10*"
    assert tables.points({"mean": 0.012, "low": -0.001, "high": 0.025}) == "+1.20 ± 1.30"
    assert tables.points({"mean": -0.0, "low": 0.0, "high": 0.0}) == "+0.00 ± 0.00"
    assert tables.points(None) == "-"
    assert tables.ratio({"mean": 1.1, "low": 1.05, "high": 1.15, "n": 3}) == "1.10 (1.05 to 1.15)*"
