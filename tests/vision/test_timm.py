"""timm's own model tests, from the source distribution of the timm that is installed."""

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def timm_source(tmp_path_factory) -> Path:
    """timm's source folder with its tests in it, but without its package: that is the installed
    one. The download is some 3 MB, through pip; without a network the tests skip."""
    folder = tmp_path_factory.mktemp("timm")
    release = f"timm=={version('timm')}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "timm"]
    done = subprocess.run(
        [*command, "--dest", folder, release], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        pytest.skip(f"pip could not download the source of {release}: {done.stderr[-200:]}")
    (archive,) = folder.glob("timm-*.tar.gz")
    with tarfile.open(archive) as files:
        tests = [f for f in files.getmembers() if "/tests/" in f.name]
        files.extractall(folder, members=tests, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def run_timm_tests(source: Path, *options: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "timm_ours", "-c", os.devnull]
    return subprocess.run(
        [*command, "-W", "ignore", "--rootdir", ".", "tests/test_models.py", *options],
        cwd=source,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


# What runs for a ViT: forward, backward, default cfg, features, intermediates, TorchScript, FX.
TESTS_OF_A_VIT = 10


@pytest.mark.parametrize(
    "models, count",
    [
        ("test_revcol_vit", 1),
        pytest.param("revcol", 9, marks=pytest.mark.slow),
    ],
)
def test_timms_own_tests_pass(timm_source, models, count):
    done = run_timm_tests(timm_source, "-k", models)
    summary = done.stdout.splitlines()[-1] if done.stdout else done.stderr
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(re.search(r"(\d+) passed", summary)[1]) == TESTS_OF_A_VIT * count, summary
    assert "skipped" not in summary and "failed" not in summary
