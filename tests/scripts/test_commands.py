"""All commands of the folder ``scripts``: they run from any folder, and their page names them."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.scripts import ENVIRONMENT, ROOT, SCRIPTS

MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for folder in ("scripts", "data")
    for path in (ROOT / folder).rglob("*.py")
    if "\nif __name__ == " in path.read_text()
)
SHELL_SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for path in SCRIPTS.rglob("*.sh")
    if path.read_text().startswith("#!")
)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with packages ``scripts`` and ``data`` of its own, which fail when imported."""
    folder = tmp_path / "else where"
    for package in ("scripts", "data"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise ImportError('the wrong package')\n")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This project under a path with a blank."""
    (tmp_path / "a project").symlink_to(ROOT, target_is_directory=True)
    return tmp_path / "a project"


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_scripts_explain_themselves_from_any_folder(
    script: str, checkout: Path, elsewhere: Path
) -> None:
    done = subprocess.run(
        ["bash", str(checkout / script), "--help"],
        cwd=elsewhere,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert f"bash {script} " in done.stdout and "--help" in done.stdout


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", MODULES)
def test_modules_explain_themselves(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")  # as python -m does, without its imports
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {module} ")


def test_scripts_use_the_modules_of_this_project_in_any_folder(
    checkout: Path, elsewhere: Path
) -> None:
    """A script that a user starts in a folder with other packages of the same names."""
    done = subprocess.run(
        ["bash", str(checkout / "scripts/quickstart.sh"), "--out", "out", "--train", "479"],
        cwd=elsewhere,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "at least 480" in done.stderr
    sourced = 'source "$1"; for m in "${@:2}"; do "$PY" -m "$m" --help >/dev/null || exit; done'
    modules = ("data.make_corpus", "scripts.translation.follow_training")
    done = subprocess.run(
        ["bash", "-c", sourced, "bash", str(checkout / "scripts/lib/common.sh"), *modules],
        cwd=elsewhere,
        env=ENVIRONMENT | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_names_every_command_and_no_other() -> None:
    page = (SCRIPTS / "README.md").read_text()
    current = page.partition("## Old paths")[0]
    named = set(re.findall(r"`bash (scripts/[\w/]+\.sh)`|`python -m ([\w.]+)`", current))
    shell = {script for script, _ in named if script}
    modules = {module for _, module in named if module}
    assert shell == set(SHELL_SCRIPTS)
    assert modules == set(MODULES)


def test_old_paths_are_gone_and_new_paths_exist() -> None:
    table = (SCRIPTS / "README.md").read_text().partition("## Old paths")[2]
    rows = re.findall(r"^\| `([\w./]+)` \| `([\w./]+)` \|$", table, re.M)
    assert len(rows) > 20
    for old, new in rows:
        assert not (ROOT / old).exists(), old
        assert (ROOT / new).exists(), new
