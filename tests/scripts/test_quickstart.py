"""The first command of the README."""

import re
import subprocess

import pytest

from tests.helpers.scripts import assert_refused, run


def quickstart(*options: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = run("quickstart.sh", *options)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def bleu(output: str) -> float:
    return float(re.search(r"^test bleu_tokenised ([\d.]+)", output, re.M)[1])


def test_quickstart_goes_from_nothing_to_scored_translations_and_reuses_what_is_there(tmp_path):
    small = ("--out", tmp_path, "--train", 480, "--max-update")
    first = quickstart(*small, 2)
    assert bleu(first.stdout) < 20
    assert re.search(r"^BLEU = \d", first.stdout, re.M), "the dictionary's BLEU"
    assert first.stdout.count("reference") == 5
    assert str(tmp_path) in first.stdout.splitlines()[-1]
    assert "bin: made" in first.stderr

    last = tmp_path / "checkpoints/checkpoint_last.pt"
    written = last.stat().st_mtime_ns
    second = quickstart(*small, 2)
    assert "bin: there already" in second.stderr and "trained already" in second.stderr
    assert last.stat().st_mtime_ns == written
    assert bleu(second.stdout) == bleu(first.stdout)

    assert_refused(quickstart(*small, 3, check=False), "was made with other settings")


def test_quickstart_refuses_what_it_does_not_know():
    for options in (("--pair", "en-xx"), ("--colums", "4"), ("--out",)):
        assert_refused(quickstart(*options, check=False), options[0])


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["en-de", "en-fr"])
def test_quickstart_trains_a_model_far_above_the_dictionary(pair, tmp_path):
    assert bleu(quickstart("--out", tmp_path, "--pair", pair).stdout) > 85
