"""scripts/wmt/prepare_en_*.sh: from a mirror of tiny archives to binarised data."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from scripts.lib.corpus_files import count_binarised_sentences
from tests.helpers.scripts import (
    ENVIRONMENT,
    assert_refused,
    build_command,
    read_contents,
    run_command,
    run_script,
)
from tests.helpers.wmt_mirror import (
    BROKEN,
    CORPORA,
    EN_DE,
    EN_FR,
    GOOD,
    build_tiny_options,
    make_raw,
)


@pytest.fixture(scope="module")
def en_de(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "en-de"
    done = run_script(EN_DE, *build_tiny_options(mirror, out))
    assert done.returncode == 0, done.stderr
    assert "note: commoncrawl.de-en has 2310 sentence pairs where WMT has 2399123" in done.stderr
    assert "clean commoncrawl.de-en: 2,310 lines in" in done.stderr
    assert "total" in done.stdout and str(out / "report.json") in done.stdout
    return out


def check_prepared(out: Path, language: str) -> None:
    """Check that every good pair is there with its translation, and every number of the report."""
    report = json.loads((out / "report.json").read_text())
    corpora = [
        (Path(name).name, good)
        for (_, name, lang), good in zip(CORPORA, GOOD, strict=True)
        if lang == language
    ]
    reasons = Counter(reason for _, _, reason in BROKEN)
    assert report["corpora"] == [
        {"corpus": name, "read": good + len(BROKEN), **reasons, "kept": good}
        for name, good in corpora
    ]
    kept = sum(good for _, good in corpora)
    assert report["total"] == {
        "corpus": "total",
        "read": kept + len(corpora) * len(BROKEN),
        **{reason: len(corpora) * count for reason, count in reasons.items()},
        "kept": kept,
    }

    source, target = (
        (out / f"text/train.{lang}").read_text().split("\n") for lang in ("en", language)
    )
    assert source.pop() == target.pop() == ""
    assert len(source) == len(target) == kept
    mark = re.compile(r"^[a-z]{2}\d+$")
    marks = [[next(filter(mark.match, line.split(" "))) for line in s] for s in (source, target)]
    assert marks[0] == marks[1]
    assert len(set(marks[0])) == kept
    assert not re.search(r"[^\S \n]", "\n".join(source + target)), "white space but the blank"

    for split, size in {"train": kept, "valid": 13, "test": 17}.items():
        assert report["splits"][split]["sentences"] == size
        for lang in ("en", language):
            plain = (out / f"text/{split}.{lang}").read_bytes()
            symbols = (out / f"bpe/{split}.{lang}").read_bytes()
            assert b"@@ " in symbols and symbols.replace(b"@@ ", b"") == plain
            assert count_binarised_sentences(out / f"bin/{split}.en-{language}.{lang}.idx") == size
    test = (out / "text/test.raw.en").read_text(encoding="utf-8").splitlines()
    assert test == [*make_raw(17)[::2], *make_raw(17)[1::2]]
    dictionaries = [(out / f"bin/dict.{lang}.txt").read_bytes() for lang in ("en", language)]
    assert dictionaries[0] == dictionaries[1]


def test_every_good_pair_is_prepared(en_de: Path) -> None:
    check_prepared(en_de, "de")
    tokens = "The &quot; 0 &quot; &amp; ( it &apos;s ) &lt; 0 &gt; : half-done ."
    assert (en_de / "text/test.en").read_text().split("\n")[0] == tokens
    assert {path.name for path in en_de.iterdir() if path.is_dir()} == {
        *("download", "text", "codes", "bpe", "bin")
    }


def test_english_french_splits_hyphens_and_reads_gzip_in_tar(mirror: Path, tmp_path: Path) -> None:
    done = run_script(EN_FR, *build_tiny_options(mirror, tmp_path))
    assert done.returncode == 0, done.stderr
    check_prepared(tmp_path, "fr")
    assert "half @-@ done ." in (tmp_path / "text/test.fr").read_text()


def test_unknown_symbols_are_counted_as_fairseq_does(en_de: Path) -> None:
    report = json.loads((en_de / "report.json").read_text())
    log = (en_de / "preprocess.log").read_text()
    found = re.findall(r"\[(\w\w)\] \S*/(\w+)\.\w\w: (\d+) sents, (\d+) tokens, (\S+)% repl", log)
    assert len(found) == 6
    for language, split, sentences, tokens, rate in found:
        ours = report["splits"][split][language]
        assert ours["tokens"] + int(sentences) == int(
            tokens
        )  # fairseq counts ends of sentences, too
        assert ours["unknown"] / int(tokens) == pytest.approx(float(rate) / 100, rel=0.005)
    assert (
        report["splits"]["train"]["en"]["unknown"] == 0 < report["splits"]["test"]["en"]["unknown"]
    )
    log_size = re.search(r"\[en\] Dictionary: (\d+) types", log)[1]
    assert report["dictionary"] == int(log_size)


def test_codes_and_subwords_are_those_of_subword_nmt(en_de: Path, tmp_path: Path) -> None:
    """Learning from counted words and applying chunk by chunk change nothing."""
    from subword_nmt import apply_bpe, learn_bpe

    train = [(en_de / f"text/train.{lang}").read_text() for lang in ("en", "de")]
    codes = io.StringIO()
    learn_bpe.learn_bpe(io.StringIO("".join(train)), codes, 150)
    assert (en_de / "bpe/codes").read_text() == codes.getvalue()
    codes.seek(0)
    bpe = apply_bpe.BPE(codes)
    theirs = "".join(bpe.process_line(line) for line in train[1].splitlines(keepends=True))
    assert (en_de / "bpe/train.de").read_text() == theirs


def test_a_second_run_does_nothing(en_de: Path, mirror: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in en_de.rglob("*")}
    done = run_script(EN_DE, *build_tiny_options(mirror, en_de))
    assert done.returncode == 0
    assert done.stderr.count("there already") == 4 == len(done.stderr.splitlines())
    assert "joined dictionary" in done.stdout
    assert {path: path.lstat().st_mtime_ns for path in en_de.rglob("*")} == before


def test_other_settings_are_refused(en_de: Path, mirror: Path) -> None:
    done = run_script(EN_DE, *build_tiny_options(mirror, en_de, "--ratio", 9))
    assert_refused(done, "ratio 1.5", "ratio 9", str(en_de))


# Killed ------------------------------------------------------------------------------------------


def find_processes(folder: Path) -> list[int]:
    """Find processes with the folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [int(path.parent.name)] if os.fsencode(folder) in path.read_bytes() else []
        except OSError:
            continue  # it has ended meanwhile
    return found


def kill_when_exists(path: Path, words: list[str], kill_group: bool) -> None:
    """Start a command, kill -9 it as soon as ``path`` exists, and wait until its processes end."""
    out = Path(words[words.index("--out") + 1])
    with (out / "killed.log").open("w") as log:
        process = subprocess.Popen(
            words, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )
    while not path.exists():
        assert process.poll() is None, (path, Path(log.name).read_text())
        time.sleep(0.002)
    (os.killpg if kill_group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    patience = time.monotonic() + 30
    while find_processes(out):
        assert time.monotonic() < patience, "a process of it still runs"
        time.sleep(0.01)


def test_a_run_resumes_after_a_kill_at_any_stage(en_de: Path, mirror: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = build_command(EN_DE, *build_tiny_options(mirror, out))
    for stage, group in {
        "clean-commoncrawl.de-en/train.en": False,
        "text/valid.en": True,
        "codes/words": True,
        "bpe/train.en": False,
        "bin": False,
    }.items():
        kill_when_exists(out / f".partial-{stage}", words, group)
        assert not (out / stage).exists()
    assert not (out / "clean-europarl-v7.de-en").exists(), (
        "cleaned corpora remain after text/ is complete"
    )
    done = run_command(words)
    assert done.returncode == 0, done.stderr
    assert "text: there already" in done.stderr and "bin: made" in done.stderr
    (out / "killed.log").unlink()
    assert read_contents(out) == read_contents(en_de)
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_a_run_resumes_after_a_kill_while_fairseq_writes(
    en_de: Path, mirror: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for name in ("settings", "text", "codes", "bpe"):
        copy = shutil.copytree if (en_de / name).is_dir() else shutil.copy
        out.mkdir(exist_ok=True)
        copy(en_de / name, out / name)
    words = build_command(EN_DE, *build_tiny_options(mirror, out))
    kill_when_exists(out / ".partial-bin/train.en-de.en.bin", words, kill_group=False)
    done = run_command(words)
    assert done.returncode == 0, done.stderr
    assert read_contents(out / "bin") == read_contents(en_de / "bin")
