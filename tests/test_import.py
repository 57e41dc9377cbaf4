"""What importing autoprune decides for Keras and TensorFlow, and what it imports where: no name of a user's clashes."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers.places import ROOT

CHOSEN = ("KERAS_BACKEND", "TF_ENABLE_ONEDNN_OPTS")
TELL = f"import os, autoprune; print(*(os.environ.get(name) for name in {CHOSEN}))"


@pytest.mark.parametrize(
    ("given", "first", "expected"),
    [
        ({}, "", ["tensorflow", "1"]),
        ({"KERAS_BACKEND": "jax", "TF_ENABLE_ONEDNN_OPTS": "0"}, "", ["jax", "0"]),
        ({}, "import sys; sys.modules['keras'] = sys.modules['tensorflow'] = sys; ", ["None", "None"]),
    ],
    ids=["nothing was chosen", "the user chose", "too late to choose"],
)
def test_only_what_is_still_open_is_decided(given, first, expected, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", first + TELL],
        env={**environment, "HOME": str(tmp_path), **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and an editable wheel of this checkout, each unpacked as an installer does."""
    place = tmp_path_factory.mktemp("built")
    source = place / "source"
    for name in ("autoprune", "conf", "envs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for kind in ("wheel", "editable"):
        code = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", code, str(place / f"{kind}s")], cwd=source, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        (wheel,) = (place / f"{kind}s").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place / kind)
    return place


def test_a_wheel_holds_one_package_with_all_files(built):
    top = {path.name.split("-")[0] for path in (built / "wheel").iterdir()}
    assert top == {"autoprune"}
    installed = {path.relative_to(built / "wheel/autoprune") for path in (built / "wheel/autoprune").rglob("*.*")}
    for folder, prefix in ((ROOT / "autoprune", ""), (ROOT / "conf", "conf"), (ROOT / "envs", "envs")):
        for path in folder.rglob("*.*"):
            if path.suffix in (".py", ".yaml", ".j2"):
                assert Path(prefix, path.relative_to(folder)) in installed


@pytest.mark.parametrize("kind", ["wheel", "editable", "checkout"])
def test_envs_and_conf_are_found_in_every_kind_of_installation(built, kind, tmp_path):
    """In a folder with modules of the same names, from the command line and from Python."""
    place = ROOT if kind == "checkout" else built / kind
    lay_traps(tmp_path)
    others = tmp_path / "others"  # Whatever is installed here, but autoprune, which would be found first.
    others.mkdir()
    for packages in map(Path, site.getsitepackages()):
        for path in packages.iterdir():
            if "autoprune" not in path.name:
                (others / path.name).symlink_to(path)
    code = (
        "import sys; sys.path.remove('')\n"
        "import site; site.addsitedir(sys.argv[1]); site.addsitedir(sys.argv[2])\n"
        "import gymnasium, autoprune.envs\n"
        "from autoprune.options import config_groups\n"
        "print(autoprune.envs.__file__, gymnasium.spec(autoprune.envs.ENV_ID).entry_point, *config_groups()['agent'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(place), str(others)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    file, entry_point, *agents = done.stdout.split()
    home = {"wheel": built / "wheel/autoprune", "editable": built / "source", "checkout": ROOT}[kind]
    assert Path(file) == home / "envs/__init__.py"
    assert entry_point == "autoprune.envs.pruning_env:ChannelPruningEnv"
    assert "ddpg" in agents


def lay_traps(folder):
    """Modules that a user may have, each of which ends a program that imports it."""
    for name in ("conf.py", "conf/__init__.py", "envs/__init__.py", "jinja2.py", "numpy.py", "keras.py", "typing.py"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise SystemExit('imported: {name}')\n")


@pytest.mark.slow
def test_no_command_imports_modules_of_the_working_folder(built, tmp_path):
    lay_traps(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "autoprune.search", "model=file", "model.path=none.keras"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(built / "wheel")},
        capture_output=True,
        text=True,
    )
    assert "There is no file 'none.keras'" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [(["-m", "autoprune.probe"], False), (["-m", "other"], True), (["probe.py"], True), (["-c", "import probe"], True)],
    ids=["command", "program", "script", "code"],
)
def test_only_a_command_forgets_the_working_folder(arguments, kept, built, tmp_path):
    package = tmp_path / "packages"
    shutil.copytree(built / "wheel/autoprune", package / "autoprune")
    here = tmp_path / "here"
    here.mkdir()
    tell = "import os, sys, autoprune; print(bool({'', os.getcwd()} & set(sys.path)))\n"
    for path in (package / "autoprune/probe.py", here / "probe.py", here / "other.py"):
        path.write_text(tell)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(kept), done.stderr
