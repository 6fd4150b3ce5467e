"""Running the scripts of the scripts folder, for their tests; what they made, what they refused."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parent.parent / "scripts"
ENVIRONMENT = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def load_script(name: str) -> ModuleType:
    """The script of that name, as a module."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(SCRIPTS))  # as Python does for a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def command(script: str, *args: object) -> list[str]:
    """What runs a script of the scripts folder."""
    launcher = "bash" if script.endswith(".sh") else sys.executable
    return [launcher, str(SCRIPTS / script), *map(str, args)]


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a script of the scripts folder, the Python of these tests being its Python."""
    return run_command(command(script, *args))


def run_command(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run any command as `run` does."""
    return subprocess.run(words, env=ENVIRONMENT, check=False, capture_output=True, text=True)


def assert_refused(
    done: subprocess.CompletedProcess[str], *words: str, progress: bool = False
) -> None:
    """It ended with status 2 and one sentence, in which `words` occur; notes may come before, and
    whatever it tells of its `progress`."""
    assert done.returncode == 2, done.stderr
    *before, sentence = done.stderr.splitlines()
    assert progress or all(line.startswith("note: ") for line in before), done.stderr
    assert "Traceback" not in done.stderr
    assert sentence.startswith("error: ")
    assert all(word in sentence for word in words), sentence


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but logs."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
