"""Translation: every line gets an answer, and options that cannot give one are refused."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation import TranslationTask
from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
from omegaconf import OmegaConf

import revcol_nlp.models  # noqa: F401 (installs the patches)
from tests.helpers.fairseq_commands import USER_DIR, RunFairseq
from tests.helpers.forked import run_forked
from tests.helpers.transformers import build_dictionary, build_small


def test_interactive_leaves_bad_lines_blank_and_goes_on(
    trained: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    done = run_fairseq(
        *("interactive", toy_data, "--user-dir", USER_DIR, "--cpu", "--beam", "1"),
        *("--path", trained / "checkpoint_last.pt", "--min-len", "2"),
        *("--buffer-size", "2", "--max-tokens", "500", "--constraints"),
        input="\n".join(["", "w1 w2", "w5 " * 1100, "", "w3 w4"]),
    )
    hypotheses = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("H-")]
    assert [id_ for id_, _, _ in hypotheses] == ["H-0", "H-1", "H-2", "H-3", "H-4"]
    assert [i for i, (_, _, text) in enumerate(hypotheses) if not text] == [0, 2, 3]
    assert [i for i, (_, score, _) in enumerate(hypotheses) if score == "-inf"] == [0, 2, 3]
    assert "S-1\tw1 w2\n" in done.stdout and "S-4\tw3 w4\n" in done.stdout
    assert "line 1 is empty: its translation H-0 is empty\n" in done.stderr
    assert "line 3 has 1101 tokens, over 500: its translation H-2 is empty\n" in done.stderr


def test_a_second_run_in_a_process_numbers_its_lines_from_the_first(
    trained: Path, toy_data: Path, tmp_path: Path
) -> None:
    ended = run_forked(
        *("fairseq-interactive", toy_data, "--user-dir", USER_DIR, "--cpu", "--beam", "1"),
        *("--path", trained / "checkpoint_last.pt", "--input", write_lines(tmp_path)),
        folder=tmp_path,
        prepare=interactive_twice,
    )
    assert ended.status == 0, ended.output[-3000:]
    assert ended.output.count("line 2 is empty: its translation H-1 is empty\n") == 2


def write_lines(folder: Path) -> Path:
    (folder / "text").write_text("w1 w2\n\n")
    return folder / "text"


def interactive_twice() -> None:
    """Makes fairseq-interactive of this process run two times."""
    from fairseq_cli import interactive

    original = interactive.cli_main

    def run_twice() -> None:
        original()
        original()

    interactive.cli_main = run_twice


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("beam", 0, "--beam must be at least 1, got 0"),
        ("lenpen", math.nan, "--lenpen must be finite, got nan"),
        ("temperature", math.inf, "--temperature must be finite, got inf"),
    ],
)
@pytest.mark.parametrize("task", [TranslationTask, TranslationFromPretrainedBARTTask])
def test_options_that_cannot_produce_a_translation_are_refused(
    task: type[FairseqTask], name: str, value: float, words: str
) -> None:
    """Also in a task that builds its generator itself."""
    words_of_task = build_dictionary(100)
    instance = SimpleNamespace(
        target_dictionary=words_of_task,
        tgt_dict=words_of_task,
        args=SimpleNamespace(target_lang="w1"),
    )
    with pytest.raises(ValueError, match=words):
        task.build_generator(instance, [build_small()], SimpleNamespace(**{name: value}))


def test_an_nbest_below_1_is_refused() -> None:
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.generation.nbest = 0
    with pytest.raises(ValueError, match="--nbest must be at least 1, got 0"):
        distributed_utils.call_main(cfg, pytest.fail)
