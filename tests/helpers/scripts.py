"""Running the scripts of the scripts folder, for their tests; what they made, what they refused."""

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


def command(script: str, *args: object) -> list[str]:
    """The words that run a script of the scripts folder: ``wmt/prepare.sh``, ``wmt/text.py``."""
    if script.endswith(".sh"):
        launcher = ["bash", str(SCRIPTS / script)]
    else:
        launcher = [sys.executable, "-m", "scripts." + script[:-3].replace("/", ".")]
    return [*launcher, *map(str, args)]


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
