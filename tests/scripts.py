"""Running the scripts of the scripts folder, for their tests."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).parent.parent / "scripts"


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


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a script of the scripts folder, the Python of these tests being its Python."""
    launcher = "bash" if script.endswith(".sh") else sys.executable
    return subprocess.run(
        [launcher, str(SCRIPTS / script), *map(str, args)],
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with status 2 and one sentence, in which `words` occur."""
    assert done.returncode == 2, done.stderr
    *notes, sentence = done.stderr.splitlines()
    assert all(line.startswith("note: ") for line in notes), done.stderr
    assert sentence.startswith("error: ")
    assert all(word in sentence for word in words), sentence
