"""scripts/quickstart.sh, the first command of the README."""

import re
import subprocess

import pytest

from tests.helpers.scripts import assert_refused, run_script


def run_quickstart(*options: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = run_script("quickstart.sh", *options)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def find_bleu(output: str) -> float:
    """Find the BLEU on the test set in what the script prints."""
    return float(re.search(r"^test bleu_tokenised ([\d.]+)", output, re.M)[1])


def test_quickstart_ends_with_scored_translations_and_a_second_run_reuses_them(tmp_path):
    small = ("--out", tmp_path, "--train", 480, "--max-update")
    first = run_quickstart(*small, 2)
    assert find_bleu(first.stdout) < 20
    assert re.search(r"^BLEU = \d", first.stdout, re.M), "no BLEU of the dictionary"
    assert first.stdout.count("reference") == 5
    assert str(tmp_path) in first.stdout.splitlines()[-1]
    assert "bin: made" in first.stderr

    last = tmp_path / "checkpoints/checkpoint_last.pt"
    written = last.stat().st_mtime_ns
    second = run_quickstart(*small, 2)
    assert "bin: there already" in second.stderr and "trained already" in second.stderr
    assert last.stat().st_mtime_ns == written
    assert find_bleu(second.stdout) == find_bleu(first.stdout)

    assert_refused(run_quickstart(*small, 3, check=False), "was made with other settings")


def test_quickstart_refuses_wrong_options():
    for options in (("--pair", "en-xx"), ("--colums", "4"), ("--out",)):
        assert_refused(run_quickstart(*options, check=False), options[0])


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["en-de", "en-fr"])
def test_quickstart_trains_a_model_far_better_than_the_dictionary(pair, tmp_path):
    assert find_bleu(run_quickstart("--out", tmp_path, "--pair", pair).stdout) > 85
