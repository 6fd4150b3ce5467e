"""Run commands of the folder ``scripts`` in tests, and check what they wrote or refused."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
ENVIRONMENT = os.environ | {
    "PYTHON": sys.executable,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}


def build_command(script: str, *args: object) -> list[str]:
    """Build the command line of a script, such as ``wmt/train.sh`` or ``wmt/text.py``."""
    if script.endswith(".sh"):
        launcher = ["bash", str(SCRIPTS / script)]
    else:
        launcher = [sys.executable, "-m", "scripts." + script[:-3].replace("/", ".")]
    return [*launcher, *map(str, args)]


def run_script(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a script with the Python of the tests."""
    return run_command(build_command(script, *args))


def run_command(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run any command in the environment of `run_script`."""
    return subprocess.run(words, env=ENVIRONMENT, check=False, capture_output=True, text=True)


def assert_refused(
    done: subprocess.CompletedProcess[str], *words: str, progress: bool = False
) -> None:
    """Assert that a script exited with status 2 and one sentence that contains all ``words``.

    Notes may precede the sentence, and if ``progress`` is True, any other lines.
    """
    assert done.returncode == 2, done.stderr
    *before, sentence = done.stderr.splitlines()
    assert progress or all(line.startswith("note: ") for line in before), done.stderr
    assert "Traceback" not in done.stderr
    assert sentence.startswith("error: ")
    assert all(word in sentence for word in words), sentence


def read_contents(folder: Path) -> dict[str, bytes]:
    """Read all files below ``folder`` except logs, by relative path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
