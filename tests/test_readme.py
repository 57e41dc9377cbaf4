"""The documentation tells what is true: its commands exist, its options are accepted, its links lead somewhere."""

import importlib
import re
import shlex

import pytest

from autoprune.envs.episode import FEATURES
from autoprune.errors import SettingsError
from autoprune.options import check_arguments, config_groups
from helpers.places import ROOT

PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *(path for folder in ("autoprune", "conf", "envs", "tests") for path in ROOT.glob(f"{folder}/**/*.md")),
    )
)
TEXTS = {path: path.read_text() for path in PAGES}
README = TEXTS[ROOT / "README.md"]
ALL = "\n".join(TEXTS.values())


def names(path):
    return str(path.relative_to(ROOT))


def test_every_place_has_its_readme():
    places = ("", "autoprune/", "autoprune/cost/", "conf/", "envs/", "tests/benchmarks/")
    assert {f"{place}README.md" for place in places} <= set(map(names, PAGES))
    assert README.count("\n") <= 300


def test_ci_installs_and_tests_as_the_readme_says():
    commands = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    blocks = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL)).splitlines()
    for command in ('pip install ".[test]"', "pytest"):
        assert command in commands
        assert command in blocks


@pytest.mark.parametrize("group", ["model", "data", "target", "searcher", "agent", "reward", "importance"])
def test_every_choice_is_named(group):
    choices = TEXTS[ROOT / "conf" / "README.md"].splitlines()
    row = next(line for line in choices if line.startswith(f"| `{group}` |"))
    named = set(re.findall(r"`(\w+)`", row.split("|")[2]))
    assert set(config_groups()[group]) - {"all"} <= named


# ------------------------------------------------------------------ links


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    found = []
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.*)$", prose, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return found


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.is_relative_to(ROOT), link
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(TEXTS[path]), link


def test_pictures_are_small():
    pictures = [page.parent / link for page in PAGES for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXTS[page])]
    assert pictures
    assert all(path.stat().st_size < 200_000 for path in pictures)


def test_every_page_can_be_reached_from_the_first():
    reached, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        for link in re.findall(r"\]\(([^)#\s]+)", TEXTS[page]):
            path = (page.parent / link).resolve()
            if path in TEXTS and path not in reached:
                left.append(path)
    assert reached == set(PAGES)


# ------------------------------------------------------------------ commands


def commands_of(text):
    """Every command of autoprune in a page, as lists of words: of blocks and of lines within sentences."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"(?:^    \S.*\n)+", text, re.MULTILINE)
    blocks += re.findall(r"`((?:KERAS_BACKEND=torch )?python (?:-m|tests/)[^`]*)`", text)
    for block in blocks:
        variables = dict(re.findall(r'^(\w+)="(.*)"$', block, re.MULTILINE))
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            if re.match(r"\s*(KERAS_BACKEND=torch )?python ", line):
                yield shlex.split(line, comments=True)


COMMANDS = sorted({tuple(words) for text in TEXTS.values() for words in commands_of(text)})


def test_there_are_commands_to_look_at():
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("words", [words for words in COMMANDS if "-m" in words], ids=" ".join)
def test_commands_have_options_that_exist(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FOLDER" / "settings.json").touch()
    module = words[words.index("-m") + 1]
    package, _, command = module.partition(".")
    assert package == "autoprune"
    if not command:
        return
    assert (ROOT / "autoprune" / f"{command}.py").is_file()
    options = list(words[words.index("-m") + 2 :])
    try:
        check_arguments(command, options)
        refused = ""
    except SettingsError as error:
        refused = str(error)
    # A launcher that is not installed here, and what a shortened command leaves out.
    assert not refused or re.search(r"needs hydra_plugins|policy must be the folder|run must be", refused)


def test_scripts_exist_and_know_the_options_that_are_shown():
    for words in COMMANDS:
        script = next((word for word in words if word.startswith("tests/")), None)
        if script is None:
            continue
        source = (ROOT / script).read_text()
        for option in words:
            if option.startswith("--"):
                assert f'"{option}"' in source, f"{script} {option}"


def test_files_that_are_named_exist():
    folders = ("autoprune", "envs", "tests")
    files = [str(path.relative_to(ROOT)) for folder in folders for path in ROOT.glob(f"{folder}/**/*.py")]
    for name in set(re.findall(r"`([\w/]+\.py)`", ALL)) - {"my_layers.py"}:  # a module of the reader's own
        assert any(f"/{file}".endswith(f"/{name}") for file in files), name


def test_every_benchmark_is_listed():
    listed = set(re.findall(r"^\| `python tests/benchmarks/(\w+)\.py`", ALL, re.MULTILINE))
    scripts = {path.stem for path in (ROOT / "tests" / "benchmarks").glob("*.py")}
    assert listed == {name for name in scripts if "__main__" in (ROOT / f"tests/benchmarks/{name}.py").read_text()}


# ------------------------------------------------------------------ Python


def test_python_names_exist():
    import autoprune

    for name in re.findall(r"\bautoprune\.(\w+)\(", ALL):
        assert name in autoprune.__all__


def test_imports_work():
    found = re.findall(r"^from (autoprune\S*) import ([\w, ]+)$", ALL, re.MULTILINE)
    assert found
    for module, listed in found:
        for name in listed.split(", "):
            assert hasattr(importlib.import_module(module), name)


def test_packages_are_on_the_map():
    for folder in (ROOT / "autoprune").iterdir():
        if folder.is_dir() and (folder / "__init__.py").exists():
            assert f"| `autoprune/{folder.name}` |" in TEXTS[ROOT / "autoprune" / "README.md"]


def test_every_feature_of_the_observation_is_described():
    page = TEXTS[ROOT / "envs" / "README.md"]
    described = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in page.splitlines() if line[:3] == "| `"))
    assert [name for name in described if name in FEATURES] == list(FEATURES)
    assert f"({len(FEATURES)},)" in page
