"""What all commands share."""

import errno
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_module

from autoprune import __version__, cli
from autoprune.__main__ import main as package_main
from autoprune.errors import JournalError, SettingsError
from autoprune.option_help import completion_script
from autoprune.options import SCHEMAS, check_arguments
from helpers.places import ROOT
from helpers.running import command
from helpers.small_search import SMALL

COMMANDS = sorted(path.stem for path in (ROOT / "autoprune").glob("*.py") if "def main(config" in path.read_text())


def test_a_crash_of_native_code_says_where_every_thread_was():
    code = "import os\nfrom autoprune import cli\ndef prune(): os.abort()\ncli.exit_on_error(prune)()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in done.stderr
    assert "in prune" in done.stderr
    assert "in run" in done.stderr


# ------------------------------------------------------------------ first contact


def run_python(*arguments, cwd):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "target.batch_size=128 (images)"),
        (["modle=vgg16"], 2, "There is no option 'modle'. Did you mean model"),
        (["--hlep"], 2, "There is no option '--hlep'. Did you mean --help"),
        (["seed=x"], 2, "The option 'seed' has a wrong value"),
        (["data.train_size=[1"], 2, "needs quotes within those of the shell"),
    ],
    ids=["help", "option", "flag", "value", "syntax"],
)
def test_help_and_mistakes_are_answered_before_anything_slow_is_imported(arguments, status, said, tmp_path):
    done = run_python("-X", "importtime", "-m", "autoprune.search", *arguments, cwd=tmp_path)
    assert done.returncode == status
    printed = done.stdout + done.stderr
    assert re.search(r"\| +autoprune\.options$", printed, re.MULTILINE)  # What is imported is listed.
    assert not re.search(r"\| +(keras|tensorflow|torch|jax)$", printed, re.MULTILINE)
    assert said in printed
    assert not list(tmp_path.iterdir())


def test_a_launcher_that_is_not_installed_is_named_with_the_way_to_get_it():
    if importlib.util.find_spec("hydra_plugins") is not None:
        pytest.skip("a launcher is installed")
    with pytest.raises(SettingsError, match=r'hydra/launcher=ray needs .*pip install "\.\[ray\]"'):
        check_arguments("search", ["-m", "hydra/launcher=ray", "seed=0,1"])


def test_the_package_itself_lists_its_commands(tmp_path):
    listed = run_python("-m", "autoprune", cwd=tmp_path)
    assert listed.returncode == 0
    assert sorted(re.findall(r"^  (\w+) +\S", listed.stdout, re.MULTILINE)) == COMMANDS
    wrong = run_python("-m", "autoprune", "serch", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "There is no command 'serch'. Did you mean search?" in wrong.stderr


def test_every_command_tells_its_version(monkeypatch, capsys):
    for arguments in ([], *([name] for name in COMMANDS)):
        monkeypatch.setattr(sys, "argv", ["autoprune", *arguments, "--version"])
        assert package_main() == 0
        assert capsys.readouterr().out == f"autoprune {__version__}\n"


# ------------------------------------------------------------------ paths

NAMES = ("run=3/m.keras", "model (1).keras", "größe.keras", "x,y.keras", "[a].keras", 'it\'s "m".keras', "1e5")


@pytest.mark.parametrize("name", [*NAMES, "a{b}$.keras", "back\\slash'.keras", "-1.keras", "true"])
def test_a_path_is_what_was_typed(name):
    given = check_arguments("measure", ["model=file", f"model.path={name}"])
    with initialize_config_module("autoprune.conf", version_base="1.3"):
        assert compose("measure", overrides=given).model.path == name


def test_paths_in_a_list_and_of_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = check_arguments("measure", ["model=file", "model.path=[~/a b.keras, größe.keras]"])
    with initialize_config_module("autoprune.conf", version_base="1.3"):
        paths = compose("measure", overrides=given).model.path
    assert paths == [f"{tmp_path}/a b.keras", "größe.keras"]
    asked = check_arguments("measure", ["model=file", "model.path=['x,y.keras',\"b c.keras\"]"])
    with initialize_config_module("autoprune.conf", version_base="1.3"):
        assert compose("measure", overrides=asked).model.path == ["x,y.keras", "b c.keras"]
    (tmp_path / "settings.json").touch()
    assert check_arguments("search", ["resume=~"]) == [f"resume='{tmp_path}'"]


def test_a_comma_parts_the_values_of_a_sweep_unless_a_file_is_named_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = ["-m", "model=file", "model.path=x,y.keras"]
    assert check_arguments("measure", asked)[-1] == "model.path=x,y.keras"
    (tmp_path / "x,y.keras").touch()
    assert check_arguments("measure", asked)[-1] == "model.path='x,y.keras'"


# ------------------------------------------------------------------ how commands end


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")])
def test_of_a_sweep_all_jobs_run_and_the_end_tells_which_failed(tmp_path, launcher):
    asked = ("-m", "target=cpu", "model=file,plain_cnn", *launcher)
    done = command(*asked, module="measure", cwd=tmp_path, fresh=bool(launcher))
    assert done.returncode == 2
    (sweep,) = tmp_path.glob("outputs/measure/*/*")
    assert (sweep / "1" / "costs.json").exists()
    assert not (sweep / "0").exists()
    assert re.search(r"job 0 \(model=file\): ModelError: model=file needs model\.path", done.stderr)
    assert "job 1" not in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def fill_device():
    with open("/dev/full", "w") as file:
        file.write("x" * 100_000)


def fill_database():
    with sqlite3.connect(":memory:") as connection:
        connection.execute("pragma max_page_count = 2")
        connection.execute("create table t (x)")
        connection.execute("insert into t values (?)", ("x" * 100_000,))


def write_where_nothing_can_be():
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/locked/settings.json")


def wrap_the_error():
    try:
        fill_device()
    except OSError as error:
        raise ValueError("the model could not be saved") from error


def call_a_full_journal_damaged():
    try:
        fill_database()
    except sqlite3.Error as error:
        raise JournalError("not a usable journal") from error


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (call_a_full_journal_damaged, "disk is full"),
        (fill_device, "no space left on device"),
        (fill_database, "disk is full"),
        (write_where_nothing_can_be, "/locked/settings.json: permission denied"),
        (wrap_the_error, "no space left on device"),
    ],
)
def test_what_the_machine_refuses_is_one_sentence(fail, said, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.exit_on_error(fail)()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "start the command again" in printed
    assert "Traceback" not in printed


def test_a_fault_keeps_its_traceback_and_asks_to_be_reported(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.exit_on_error(lambda: {}["missing"])()
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "KeyError: 'missing'" in printed
    assert f"a fault of autoprune {__version__}" in printed


# Runs searches with another body: each is a list of arguments and what the body does in the run folder.
SEARCHES = """
import contextlib, importlib, io, json, os, sys
from autoprune import cli
from autoprune.errors import JournalError, SettingsError

def begin_and_fill():
    for name in ("settings.json", "evaluations.sqlite"):
        (cli.run_folder() / name).write_text("{}")
    with open("/dev/full", "w") as file:
        file.write("x" * 100_000)

def refuse():
    raise SettingsError("refused")

told, search = [], importlib.import_module("autoprune.search")
for body, *arguments in json.loads(sys.argv[1]):
    search.run_or_resume = lambda *arguments: globals()[body]()
    sys.argv = ["search", *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            status = cli.run_command("search")
        except SystemExit as end:
            status = end.code
    told.append((status, printed.getvalue()))
print(json.dumps(told))
"""


def test_what_a_run_that_is_refused_leaves_and_says(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.json").write_text("{}")
    (tmp_path / "mine" / "outputs").write_text("a file of this name")
    full, *others = [["begin_and_fill"], ["refuse", "resume=mine"], ["refuse", "hydra.run.dir=mine"], ["refuse"]]
    unwritable = ["refuse", "hydra.run.dir=mine/outputs/new"]
    done = run_python("-c", SEARCHES, json.dumps([full, *others, unwritable]), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (status, told), *refused, (last_status, last_told) = json.loads(done.stdout.splitlines()[-1])
    # A full disk: what is kept, and how to go on.
    (folder,) = tmp_path.glob("outputs/search/*/*")
    assert status == 2
    assert f"What was finished before is kept in {folder}" in told
    assert f"python -m autoprune.search resume={folder}" in told
    # What was there before is not removed, what is new and empty is.
    assert refused == [[2, "\nSettingsError: refused\n"]] * 3
    assert (tmp_path / "mine" / "settings.json").exists()
    assert [path.name for path in tmp_path.glob("outputs/search/*/*")] == [folder.name]
    # A place where no folder can be made.
    assert last_status == 2
    assert re.search(r"refused to read or write \S*mine/outputs/new: not a directory\.", last_told)
    assert "Traceback" not in told + last_told


# ------------------------------------------------------------------ finding one's way


def test_every_command_has_an_example_that_is_accepted():
    assert cli.EXAMPLES.keys() == cli.ABOUT.keys() == SCHEMAS.keys()
    for name, example in cli.EXAMPLES.items():
        python, flag, module, *options = example.split()
        assert (python, flag, module) == ("python", "-m", f"autoprune.{name}")
        check_arguments(name, options)


def complete(*words):
    """What bash offers for the last of some words, as it splits them."""
    script = f"""
        {completion_script(list(cli.ABOUT))}
        COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
        _autoprune 2>/dev/null; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_shell_completes_commands_options_and_entries():
    assert complete("autoprune", "re") == ["replay", "report"]
    assert complete("autoprune", "search", "budg") == ["budget=", "budget.latency=", "budget.memory="]
    assert complete("autoprune", "search", "model", "=", "res") == ["resnet20", "resnet56"]
    assert {"rl", "exact"} <= set(complete("autoprune", "search", "searcher", "="))
    assert "seeds=" in complete("autoprune", "compare", "seed")
    assert "seeds=" not in complete("autoprune", "search", "seed")


def test_a_quiet_command_shows_its_result_alone(tmp_path):
    done = command(*SMALL, "--quiet", "searcher=random", "search.evaluations=2", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "evaluations" not in done.stdout + done.stderr
    assert "test" in done.stdout
    assert "evaluations" in (tmp_path / "run/search.log").read_text()
