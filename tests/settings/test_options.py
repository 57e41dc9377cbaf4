"""Options are described once: their defaults, units and meanings come from the settings classes alone."""

import re
from dataclasses import fields, is_dataclass

import pytest
from omegaconf import OmegaConf

from autoprune import cli
from autoprune.option_help import describe_command, write_value
from autoprune.options import SCHEMAS, check_overrides, config_groups
from autoprune.settings import SearchSettings
from autoprune.settings.options import default_of, default_values, describe_fields, list_options, part_type
from helpers import option_tables
from helpers.places import ROOT

CONF = ROOT / "conf"
PARTS = {item.name: part_type(item) for schema in SCHEMAS.values() for item in fields(schema) if part_type(item)}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_option_has_a_meaning_and_every_number_a_unit(schema):
    for option in list_options(schema):
        assert option.meaning, option.name
        numbers = option.default if isinstance(option.default, list) else [option.default]
        if any(isinstance(number, int | float) for number in numbers):
            assert option.unit, option.name


@pytest.mark.parametrize("schema", [*SCHEMAS.values(), *PARTS.values()])
def test_docstrings_describe_no_field_that_is_not_there(schema):
    assert describe_fields(schema).keys() <= {item.name for item in fields(schema)}


def test_entries_of_a_group_say_only_what_they_change():
    for group in set(config_groups()) - {"experiment"}:
        defaults = {item.name: default_of(item) for item in fields(PARTS[group])}
        for path in (CONF / group).glob("*.yaml"):
            said = OmegaConf.to_container(OmegaConf.load(path))
            assert said.keys() <= defaults.keys(), path
            repeated = [name for name, value in said.items() if name != "name" and defaults[name] == value]
            assert not repeated, f"{path} repeats the default of {repeated}"


def test_root_configs_choose_entries_and_set_nothing():
    for command in SCHEMAS:
        assert set(OmegaConf.load(CONF / f"{command}.yaml")) == {"defaults"}


def test_a_command_leaves_out_the_options_that_it_does_not_read():
    values = default_values(SCHEMAS["learn"])
    assert set(values["search"]) == {"evaluations", "batch", "project"}
    assert not any(is_dataclass(value) for value in values.values())
    assert check_overrides("learn", ["search.finalists=3"]).startswith("There is no option 'search.finalists'.")
    assert check_overrides("search", ["search.finalists=3"]) == ""


@pytest.mark.parametrize("command", SCHEMAS)
def test_help_prints_every_option_with_its_meaning_default_and_unit(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    printed = describe_command(command, cli.ABOUT[command], [])
    assert max(map(len, printed.splitlines())) <= 100
    words = " ".join(printed.split())
    shown = set(re.findall(r"^  ([a-z][\w.]*)=", printed, re.MULTILINE))
    options = {option.name: option for option in list_options(SCHEMAS[command])}
    hidden = {name for name, option in options.items() if option.only or option.never}
    assert options.keys() - hidden <= shown <= options.keys()
    for name in shown:
        option = options[name]
        unit = re.escape(f" ({option.unit})") if option.unit else ""
        assert re.search(rf"\b{re.escape(name)}=\S+{unit} ", words), name
        assert option.meaning.replace("`", "") in words


def test_help_shows_the_values_of_the_entries_chosen_and_only_what_they_read():
    printed = describe_command("search", "", ["target=cpu", "training=distillation", "search.evaluations=7", "--help"])
    for shown in ("target=cpu", "target.batch_size=32 (images)", "training.temperature=4 ", "search.evaluations=7 "):
        assert shown in printed
    assert "target.route" not in printed
    assert "model.weights" not in printed
    assert "model.weights=imagenet" in describe_command("search", "", ["model=application"])


def test_defaults_in_help_are_those_of_python():
    printed = describe_command("search", "", ["data=npz"])
    for option in list_options(SearchSettings):
        if option.name not in ("data.name", "model.name") and not (option.only or option.never):
            assert f"\n  {option.name}={write_value(option.default)}" in printed


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("search", ["model.weights=w"], "model.weights must be given with model=application; model=small_resnet does"),
        ("search", ["model=application", "model.width=0.5"], "model.width must be left out; model=application does"),
        ("search", ["target=cpu", "target.route=keras"], "target.route must be left out; target=cpu does not read it"),
        ("search", ["importance.images=9"], "importance.images must be given with importance=taylor or loss or"),
        ("search", ["data.test_split=x"], "data.test_split must be given with data=tfds; data=digits does not read it"),
        ("measure", ["model.path=x.keras"], "model.path must be given with model=file; model=small_resnet does not"),
    ],
)
def test_an_option_that_the_chosen_entry_does_not_read_is_refused(command, given, said):
    assert check_overrides(command, given).startswith(said)


def test_an_experiment_counts_as_a_choice():
    assert check_overrides("compare", ["experiment=fashion_small", "data.dir=x"]) == ""
    assert "data=digits does not read it" in check_overrides("compare", ["data.dir=x"])


def test_the_tables_in_the_documentation_are_those_of_the_settings_classes():
    _, _, rest = option_tables.FILE.read_text().partition(option_tables.BEGIN)
    assert rest.partition(option_tables.END)[0].strip() == option_tables.render().strip(), (
        "run tests/helpers/option_tables.py"
    )
