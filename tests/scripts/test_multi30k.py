"""scripts/multi30k and evaluate.sh: preparing data, and the recipe on a small corpus."""

import gzip
import json
import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.translation import score as scoring
from tests.helpers.scripts import SCRIPTS, assert_refused, read_contents, run_script

SPLITS = {"train": 300, "val": 21, "test_2016_flickr": 19}
NAMES = {"train": "train", "val": "valid", "test_2016_flickr": "test"}

# Preparing ---------------------------------------------------------------------------------------


def write_corpus(folder: Path) -> None:
    """Write a made-up corpus in the layout of ``--from``, in the order of sentence lengths."""
    chance = random.Random(0)
    syllables = ["ba", "ke", "lo", "mi", "nu", "ra", "se", "to", "vi", "zu"]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 3))) for _ in range(80)]
    (folder / "tok").mkdir(parents=True)
    for split, size in SPLITS.items():
        lengths = sorted(chance.randint(3, 18) for _ in range(size))
        english = [chance.choices(words, k=length) for length in lengths]
        for lang, step in {"en": 1, "de": -1}.items():
            sentences = [" ".join(sentence[::step]) for sentence in english]
            tokenised = "".join(f"{sentence} .\n" for sentence in sentences)
            raw = "".join(f"{sentence.capitalize()}.\n" for sentence in sentences)
            (folder / f"tok/{split}.{lang}.gz").write_bytes(gzip.compress(tokenised.encode()))
            (folder / f"{split}.{lang}.gz").write_bytes(gzip.compress(raw.encode()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "en-de"
    done = run_script("multi30k/prepare.sh", "--from", corpus, "--merges", 60, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "note: train has 300 sentence pairs where Multi30k has 29000" in done.stderr
    return out


def test_every_sentence_is_prepared(prepared: Path, corpus: Path) -> None:
    for theirs, ours in NAMES.items():
        for lang in ("en", "de"):
            text = gzip.decompress((corpus / f"tok/{theirs}.{lang}.gz").read_bytes()).decode()
            assert (prepared / f"text/{ours}.{lang}").read_text() == text
            bpe = (prepared / f"bpe/{ours}.{lang}").read_text()
            assert "@@ " in bpe
            assert bpe.replace("@@ ", "") == text
        assert scoring.Corpus.read(prepared / "bin", ours).sentences == SPLITS[theirs]
    assert scoring.Corpus.read(prepared / "bin", "test").target == "de"
    raw = gzip.decompress((corpus / "test_2016_flickr.de.gz").read_bytes())
    assert (prepared / "text/test.raw.de").read_bytes() == raw
    dictionaries = [(prepared / f"bin/dict.{lang}.txt").read_bytes() for lang in ("en", "de")]
    assert dictionaries[0] == dictionaries[1]


def test_a_second_run_does_nothing(prepared: Path, corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    done = run_script("multi30k/prepare.sh", "--from", corpus, "--merges", 60, "--out", prepared)
    assert done.returncode == 0
    assert done.stderr.count("there already") == 3
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_other_settings_are_refused(prepared: Path, corpus: Path) -> None:
    done = run_script("multi30k/prepare.sh", "--from", corpus, "--merges", 61, "--out", prepared)
    assert_refused(done, "60 merges", "61 merges", str(prepared))


def test_a_mirror_gives_the_same_data_and_downloads_resume(
    prepared: Path, corpus: Path, tmp_path: Path
) -> None:
    task = tmp_path / "mirror/data/task1"
    (task / "tok").mkdir(parents=True)
    (task / "raw").mkdir()
    for packed in corpus.glob("*.gz"):
        (task / "raw" / packed.name).write_bytes(packed.read_bytes())
        split, lang, _ = packed.name.split(".")
        tokenised = gzip.decompress((corpus / "tok" / packed.name).read_bytes())
        (task / f"tok/{split}.lc.norm.tok.{lang}").write_bytes(tokenised)
    arguments = ("--mirror", f"file://{tmp_path}/mirror", "--merges", 60, "--out", tmp_path / "out")

    hidden = (task / "raw/test_2016_flickr.de.gz").rename(tmp_path / "hidden")
    done = run_script("multi30k/prepare.sh", *arguments)
    assert_refused(done, "test_2016_flickr.de.gz", f"file://{task}/raw/test_2016_flickr.de.gz")
    assert not (tmp_path / "out/text").exists()

    hidden.rename(task / "raw/test_2016_flickr.de.gz")
    half = (task / "raw/test_2016_flickr.de.gz").read_bytes()[:100]
    (tmp_path / "out/download/test_2016_flickr.de.gz.part").write_bytes(half)
    (tmp_path / "out/.partial-bin").mkdir()
    (tmp_path / "out/.partial-bin/dict.en.txt").write_text("cut sh")
    done = run_script("multi30k/prepare.sh", *arguments)
    assert done.returncode == 0, done.stderr
    for folder in ("text", "bpe", "bin"):
        assert read_contents(tmp_path / "out" / folder) == read_contents(prepared / folder)
    assert not list((tmp_path / "out").glob(".partial*"))


def damage_lines(folder: Path) -> None:
    (folder / "tok/val.de.gz").write_bytes(gzip.compress(b"nur eine zeile .\n"))


def damage_archive(folder: Path) -> None:
    path = folder / "tok/val.de.gz"
    path.write_bytes(path.read_bytes()[:-20])


def damage_encoding(folder: Path) -> None:
    (folder / "tok/val.de.gz").write_bytes(gzip.compress("schön .\n".encode("latin-1")))


def damage_names(folder: Path) -> None:
    (folder / "tok/val.de.gz").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_lines, ("valid.de has 1 lines", "valid.en has 21")),
        (damage_archive, ("gzip file is truncated or damaged", "val.de.gz")),
        (damage_encoding, ("not valid UTF-8", "val.de.gz")),
        (damage_names, ("lacks the file", "val.de.gz")),
    ],
)
def test_a_damaged_corpus_is_refused(
    damage: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path
) -> None:
    write_corpus(tmp_path / "corpus")
    damage(tmp_path / "corpus")
    out = tmp_path / "out"
    done = run_script("multi30k/prepare.sh", "--from", tmp_path / "corpus", "--out", out)
    assert_refused(done, *words)
    assert not (out / "text").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("multi30k/prepare.sh", ("--pair", "en-cs"), ("en-cs",)),
        ("multi30k/prepare.sh", ("--from", "/nowhere"), ("--from", "/nowhere")),
        ("multi30k/prepare.sh", ("--merges", "many"), ("--merges", "many")),
        ("multi30k/prepare.sh", ("--out",), ("--out", "value")),
        ("multi30k/prepare.sh", ("--frm", "x"), ("--frm",)),
        ("multi30k/train.sh", ("--arch", "lstm"), ("--arch", "lstm")),
        ("multi30k/train.sh", ("--data", "/nowhere"), ("/nowhere", "multi30k/prepare.sh")),
        ("multi30k/train.sh", ("--max-update", "0"), ("--max-update",)),
        ("translation/evaluate.sh", (), ("--data", "--checkpoint")),
        (
            "translation/evaluate.sh",
            ("--data", "/tmp", "--checkpoint", "/nowhere.pt"),
            ("/nowhere.pt",),
        ),
        ("translation/evaluate.sh", ("--lenpen", "long"), ("--lenpen", "long")),
    ],
)
def test_bad_options_get_one_sentence(
    script: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(run_script(script, *arguments), *words)


@pytest.mark.parametrize(
    "script", ["multi30k/prepare.sh", "multi30k/train.sh", "translation/evaluate.sh"]
)
def test_help_names_every_option(script: str) -> None:
    done = run_script(script, "--help")
    assert done.returncode == 0
    options = re.findall(
        r"^    (--[a-z-]+)(?: \| -h)?\)", (SCRIPTS / script).read_text(), re.MULTILINE
    )
    assert "--help" in options
    assert all(option in done.stdout for option in options)


# The whole recipe --------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_resume_average_evaluate(prepared: Path, tmp_path: Path) -> None:
    def train(updates: int) -> subprocess.CompletedProcess[str]:
        return run_script(
            "multi30k/train.sh",
            *("--arch", "transformer", "--data", prepared / "bin", "--out", tmp_path),
            *("--update-freq", 1, "--max-update", updates),
            *("--", "--max-tokens", 800, "--warmup-updates", 10),
        )

    first = train(16)
    assert first.returncode == 0, first.stderr
    assert "the recipe averages 10" in first.stderr
    second = train(32)
    assert second.returncode == 0, second.stderr
    assert re.search(r"Loaded checkpoint \S+ \(epoch \d+ @ 16 updates\)", second.stdout)
    for split, size in {"valid": 21, "test": 19}.items():
        folder = tmp_path / split
        assert len(scoring.read_lines(folder / "hyp.tok")) == size
        assert (folder / "ref.tok").read_text() == (prepared / f"text/{split}.de").read_text()
        assert json.loads((folder / "scores.json").read_text())["sentences"] == size
        assert f"{split} sacrebleu" in second.stdout
    again = train(32)
    assert again.returncode == 0
    assert "trained already" in again.stderr
    assert again.stdout.splitlines()[-8:] == second.stdout.splitlines()[-8:]


# Real Multi30k -----------------------------------------------------------------------------------


@pytest.fixture
def multi30k() -> Path:
    if not (folder := os.environ.get("REVCOL_MULTI30K")):
        pytest.skip("REVCOL_MULTI30K names no folder with Multi30k")
    return Path(folder)


@pytest.mark.parametrize("lang", ["en", "de", "fr"])
def test_detokenising_restores_the_raw_references(lang: str, multi30k: Path) -> None:
    from sacrebleu.metrics import BLEU

    tokenised, raw = (
        gzip.decompress((multi30k / path).read_bytes()).decode().splitlines()
        for path in (f"tok/val.{lang}.gz", f"val.{lang}.gz")
    )
    plain = scoring.detokenise(tokenised, lang)
    assert scoring.compute_score(BLEU(lowercase=True), plain, raw)["score"] > 99


@pytest.mark.slow
def test_real_corpus_has_the_published_sizes(multi30k: Path, tmp_path: Path) -> None:
    done = run_script("multi30k/prepare.sh", "--from", multi30k, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note:" not in done.stderr
    for split, size in {"train": 29000, "valid": 1014, "test": 1000}.items():
        assert scoring.Corpus.read(tmp_path / "bin", split).sentences == size
    assert len(scoring.read_lines(tmp_path / "bin/dict.en.txt")) + 4 == 9712
