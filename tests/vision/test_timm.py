"""timm's own model tests pass on our models.

They come from the source distribution of the installed timm, which pip downloads: some 3 MB.
Without a network these tests are skipped.
"""

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Forward, backward, default cfg, features, intermediates, pruning, TorchScript, torch.fx.
TESTS_OF_A_VIT = 10


@pytest.fixture(scope="module")
def timm_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's source folder with its tests, but without its package: the installed one is tested."""
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
    # timm's folder of tests is a package of the same name as ours, hence the plugin's own folder.
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "timm_plugin", "-c", os.devnull]
    return subprocess.run(
        [*command, "-W", "ignore", "--rootdir", ".", "tests/test_models.py", *options],
        cwd=source,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("models", "count"),
    [
        pytest.param("test_revcol_vit", 1, id="test size"),
        pytest.param("revcol", 9, id="all sizes", marks=pytest.mark.slow),
    ],
)
def test_timms_own_tests_pass(timm_source: Path, models: str, count: int) -> None:
    done = run_timm_tests(timm_source, "-k", models)
    output = done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == 0, output
    summary = done.stdout.splitlines()[-1]
    passed = int(re.search(r"(\d+) passed", summary)[1])
    # A later timm may have more tests, but has them for every model.
    assert passed >= TESTS_OF_A_VIT * count and passed % count == 0, summary
    assert "skipped" not in summary and "failed" not in summary, summary
