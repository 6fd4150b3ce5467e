"""scripts/wmt/text.py and scripts/lib/line_pool.py: tokens, limits, order of lines, memory."""

import gzip
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tqdm import tqdm

from scripts.lib import line_pool
from scripts.wmt import cleaning, subwords
from tests.helpers.scripts import build_command, run_command
from tests.helpers.wmt_mirror import write_tar


def test_results_come_in_order_and_few_chunks_are_read_ahead() -> None:
    read = []

    def chunks() -> Iterator[list[bytes]]:
        for number in range(100):
            read.append(number)
            yield [b"x"] * number

    results = line_pool.map_in_order(subwords.count_chunk_words, chunks(), workers=2)
    assert next(results)[0] == 0
    assert len(read) == 2 * line_pool.AHEAD
    assert [lines for lines, _ in results] == list(range(1, 100))


def test_a_worker_ends_if_its_parent_was_killed_before_it_started() -> None:
    for parent, status in {os.getpid(): 0, os.getppid(): 1}.items():
        worker = multiprocessing.get_context("fork").Process(
            target=line_pool.end_with_parent, args=(parent,)
        )
        worker.start()
        worker.join()
        assert worker.exitcode == status


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (250, 250, None),
        (251, 250, "too long"),
        (15, 10, None),
        (10, 15, None),
        (16, 10, "ratio"),
        (10, 16, "ratio"),
        (0, 0, "empty"),
        (1, 0, "empty"),
    ],
)
def test_pairs_beyond_the_limits_of_length_and_ratio_are_dropped(
    source: int, target: int, reason: str | None
) -> None:
    rules = cleaning.Rules(("en", "de"), dashes=False, max_length=250, ratio=1.5)
    assert cleaning.find_fault(["w"] * source, ["w"] * target, rules) == reason


def test_words_longer_than_mosess_limit_are_dropped() -> None:
    rules = cleaning.Rules(("en", "de"), dashes=False, max_length=250, ratio=1.5)
    assert cleaning.find_fault(["w" * 1000], ["w"], rules) is None
    assert cleaning.find_fault(["w"], ["w" * 1001], rules) == "too long"


@pytest.mark.parametrize(
    ("language", "line", "tokens"),
    [
        ("de", "Er sagte: \u201eJa.\u201c", "Er sagte : &quot; Ja &quot; ."),
        ("de", "z.B. am 3. Mai\u2026 50 %", "z.B. am 3. Mai ... 50 %"),
        ("en", "He said: \u201cYes.\u201d", "He said : &quot; Yes . &quot;"),
        ("en", "state-of-the-art 5,000.5 a/b_c", "state @-@ of @-@ the @-@ art 5,000.5 a / b _ c"),
        ("en", "a\x00b \u200b\ufeffc\u2028d", "a b c d"),
        ("fr", "\u00ab\u00a0L\u2019avion\u00a0\u00bb\u00a0!", "&quot; L&apos; avion &quot; !"),
        ("fr", "3\u00a0000 a|b [c] & <d>", "3,000 a &#124; b &#91; c &#93; &amp; &lt; d &gt;"),
    ],
)
def test_tokens_are_those_of_moses(language: str, line: str, tokens: str) -> None:
    """The expected tokens are the output of the Perl scripts for these lines."""
    assert " ".join(cleaning.tokenise(line, language, dashes=True)) == tokens
    without = " ".join(cleaning.tokenise(line, language, dashes=False))
    assert without == tokens.replace(" @-@ ", "-")


def test_rare_words_are_dropped_if_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subwords, "MOST_WORDS", 3)
    (tmp_path / "text").write_text("a b b c c c\n" + "d d d d\n" + "e\n")
    subwords.count_words([tmp_path / "text"], tmp_path / "words", workers=1)
    assert (tmp_path / "words").read_text() == "d 4\nc 3\nb 2\n"


def test_progress_is_printed_in_lines_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(line_pool, "SECONDS_BETWEEN_LINES", 0)
    assert list(line_pool.show_progress([1500, 500], "clean x", int, 4000)) == [1500, 500]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("clean x: 1,500 of 4,000 lines, ")
    assert lines[-1].startswith("clean x: 2,000 lines in ")


def test_a_bar_starts_no_thread_that_workers_would_inherit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    before = threading.active_count(), tqdm.monitor_interval

    def results() -> Iterator[int]:
        assert (threading.active_count(), tqdm.monitor_interval) == before
        yield 1

    assert list(line_pool.show_progress(results(), "clean x", int)) == [1]


# Runs a command and prints the peak memory of its largest process. A process inherits the peak of
# its parent, so this parent must be small.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Cleaning four times as many lines has the same peak memory, by the largest process."""
    name = "commoncrawl.de-en"
    peaks = {}
    for lines in (100_000, 400_000):
        sides = (b"A short line , number %d .\n" * lines) % tuple(range(lines))
        archive = tmp_path / f"{lines}.tgz"
        write_tar(archive, {f"{name}.en": sides, f"{name}.de": sides})
        del sides
        out = tmp_path / str(lines)
        out.mkdir()
        options = ("--languages", "en", "de", "--max-length", 250, "--ratio", 1.5, "--workers", 2)
        words = ("clean", "--archive", archive, "--name", name, "--out", out, *options)
        done = run_command([sys.executable, "-c", PEAK, *build_command("wmt/text.py", *words)])
        assert done.returncode == 0, done.stderr
        assert json.loads((out / "counts.json").read_text())["kept"] == lines
        peaks[lines] = int(done.stdout)
    assert peaks[400_000] <= 1.1 * peaks[100_000], peaks


@pytest.mark.parametrize("language", ["en", "de"])
def test_tokens_of_the_wmt_sample(language: str) -> None:
    """Tokenising the detokenised sample again gives the sample.

    Moses tokenised the sample before it normalised its punctuation, so the test does the same. It
    ignores escapes of quotation marks: the sample has them for marks that were not typographic,
    which cannot be seen after normalisation.
    """
    if not (folder := os.environ.get("REVCOL_WMT_SAMPLE")):
        pytest.skip("REVCOL_WMT_SAMPLE names no folder with a sample of WMT")
    from sacremoses import MosesDetokenizer

    with gzip.open(Path(folder) / f"train.{language}.gz", "rt", encoding="utf-8") as file:
        sample = [line.rstrip("\n") for line in file][:2500]
    detokenizer = MosesDetokenizer(language)
    normaliser, tokeniser = cleaning.load_moses(language)

    def comparable(line: str) -> str:
        return " ".join(line.replace("&quot;", '"').split())

    again = [
        normaliser.normalize(
            tokeniser.tokenize(detokenizer.detokenize(line.split()), return_str=True)
        )
        for line in sample
    ]
    same = sum(comparable(a) == comparable(b) for a, b in zip(again, sample, strict=True))
    assert same > 0.995 * len(sample)
