"""The Multi30k scripts: prepare, average, score, and the whole recipe on a small corpus."""

import argparse
import gzip
import importlib.util
import json
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"
SPLITS = {"train": 300, "val": 21, "test_2016_flickr": 19}
NAMES = {"train": "train", "val": "valid", "test_2016_flickr": "test"}


def load_script(name: str) -> ModuleType:
    """The script of that name, as a module."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


averaging = load_script("average_checkpoints")
scoring = load_script("score")


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run a script of the scripts folder, the Python of these tests being its Python."""
    launcher = "bash" if script.endswith(".sh") else sys.executable
    return subprocess.run(
        [launcher, str(SCRIPTS / script), *map(str, args)],
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with status 2 and one sentence, in which `words` occur."""
    assert done.returncode == 2, done.stderr
    *notes, sentence = done.stderr.splitlines()
    assert all(line.startswith("note: ") for line in notes), done.stderr
    assert sentence.startswith("error: ")
    assert all(word in sentence for word in words), sentence


# Preparing ---------------------------------------------------------------------------------------


def write_corpus(folder: Path) -> None:
    """A made-up corpus laid out as `--from` expects it; the longest sentence of each split last."""
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
    done = run("prepare_multi30k.sh", "--from", corpus, "--merges", 60, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "note: train has 300 sentence pairs where Multi30k has 29000" in done.stderr
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but logs."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_sentence_is_prepared(prepared: Path, corpus: Path) -> None:
    for theirs, ours in NAMES.items():
        for lang in ("en", "de"):
            text = gzip.decompress((corpus / f"tok/{theirs}.{lang}.gz").read_bytes()).decode()
            assert (prepared / f"text/{ours}.{lang}").read_text() == text
            bpe = (prepared / f"bpe/{ours}.{lang}").read_text()
            assert "@@ " in bpe
            assert bpe.replace("@@ ", "") == text
        assert scoring.Corpus.of(prepared / "bin", ours).sentences == SPLITS[theirs]
    assert scoring.Corpus.of(prepared / "bin", "test").target == "de"
    raw = gzip.decompress((corpus / "test_2016_flickr.de.gz").read_bytes())
    assert (prepared / "text/test.raw.de").read_bytes() == raw
    dictionaries = [(prepared / f"bin/dict.{lang}.txt").read_bytes() for lang in ("en", "de")]
    assert dictionaries[0] == dictionaries[1]


def test_a_second_run_does_nothing(prepared: Path, corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    done = run("prepare_multi30k.sh", "--from", corpus, "--merges", 60, "--out", prepared)
    assert done.returncode == 0
    assert done.stderr.count("there already") == 3
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_other_settings_are_refused(prepared: Path, corpus: Path) -> None:
    done = run("prepare_multi30k.sh", "--from", corpus, "--merges", 61, "--out", prepared)
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
    done = run("prepare_multi30k.sh", *arguments)
    assert_refused(done, "test_2016_flickr.de.gz", f"file://{task}/raw/test_2016_flickr.de.gz")
    assert not (tmp_path / "out/text").exists()

    hidden.rename(task / "raw/test_2016_flickr.de.gz")
    half = (task / "raw/test_2016_flickr.de.gz").read_bytes()[:100]
    (tmp_path / "out/download/test_2016_flickr.de.gz.part").write_bytes(half)
    (tmp_path / "out/.partial-bin").mkdir()
    (tmp_path / "out/.partial-bin/dict.en.txt").write_text("cut sh")
    done = run("prepare_multi30k.sh", *arguments)
    assert done.returncode == 0, done.stderr
    for folder in ("text", "bpe", "bin"):
        assert contents(tmp_path / "out" / folder) == contents(prepared / folder)
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
        (damage_archive, ("not a whole gzip file", "val.de.gz")),
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
    done = run("prepare_multi30k.sh", "--from", tmp_path / "corpus", "--out", out)
    assert_refused(done, *words)
    assert not (out / "text").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("prepare_multi30k.sh", ("--pair", "en-cs"), ("en-cs",)),
        ("prepare_multi30k.sh", ("--from", "/nowhere"), ("--from", "/nowhere")),
        ("prepare_multi30k.sh", ("--merges", "many"), ("--merges", "many")),
        ("prepare_multi30k.sh", ("--out",), ("--out", "value")),
        ("prepare_multi30k.sh", ("--frm", "x"), ("--frm",)),
        ("train_multi30k.sh", ("--arch", "lstm"), ("--arch", "lstm")),
        ("train_multi30k.sh", ("--data", "/nowhere"), ("/nowhere", "prepare_multi30k.sh")),
        ("train_multi30k.sh", ("--max-update", "0"), ("--max-update",)),
        ("evaluate.sh", (), ("--data", "--checkpoint")),
        ("evaluate.sh", ("--data", "/tmp", "--checkpoint", "/nowhere.pt"), ("/nowhere.pt",)),
        ("evaluate.sh", ("--lenpen", "long"), ("--lenpen", "long")),
    ],
)
def test_bad_options_get_one_sentence(
    script: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(run(script, *arguments), *words)


@pytest.mark.parametrize("script", ["prepare_multi30k.sh", "train_multi30k.sh", "evaluate.sh"])
def test_help_names_every_option(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    options = re.findall(
        r"^    (--[a-z-]+)(?: \| -h)?\)", (SCRIPTS / script).read_text(), re.MULTILINE
    )
    assert "--help" in options
    assert all(option in done.stdout for option in options)


# Averaging ---------------------------------------------------------------------------------------


def write_checkpoint(path: Path, update: int, **model: torch.Tensor) -> Path:
    """A checkpoint with what fairseq keeps in one, whose weights are made from `update`."""
    weights = {
        "weight": torch.full((2, 3), 0.1 * update),
        "half": torch.tensor([1.0 + update], dtype=torch.float16),
        "steps": torch.tensor([7]),
    }
    state = {
        "args": argparse.Namespace(arch="transformer"),
        "model": weights | model,
        "optimizer_history": [{"num_updates": update}],
        "last_optimizer_state": {"state": torch.zeros(5)},
        "extra_state": {"epoch": update},
    }
    torch.save(state, path)
    return path


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Epochs 8 to 11 in a folder, with what else a training leaves there."""
    for epoch in (8, 9, 10, 11):
        write_checkpoint(tmp_path / f"checkpoint{epoch}.pt", epoch)
        write_checkpoint(tmp_path / f"checkpoint_1_{epoch * 100}.pt", epoch * 100)
    write_checkpoint(tmp_path / "checkpoint_last.pt", 99)
    write_checkpoint(tmp_path / "checkpoint_best.pt", 99)
    return tmp_path


def test_average_of_the_last_epochs(checkpoints: Path) -> None:
    output = checkpoints / "average.pt"
    done = run(
        "average_checkpoints.py",
        *("--inputs", checkpoints, "--num-epoch-checkpoints", 3, "--output", output),
    )
    assert done.returncode == 0, done.stderr
    assert "checkpoint11.pt, checkpoint10.pt, checkpoint9.pt" in done.stdout
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(output, weights_only=True)
    torch.testing.assert_close(state["model"]["weight"], torch.full((2, 3), 1.0))
    assert state["model"]["half"].dtype == torch.float16
    assert state["model"]["half"].item() == 11.0
    assert state["model"]["steps"].tolist() == [7]
    assert state["extra_state"] == {"epoch": 11}
    assert state["args"].arch == "transformer"
    assert "last_optimizer_state" not in state
    assert not list(checkpoints.glob("*.part"))


def test_update_checkpoints_are_ordered_by_update(checkpoints: Path) -> None:
    chosen = averaging.last_checkpoints(checkpoints, averaging.UPDATE_NAME, 3)
    assert [path.name for path in chosen] == [f"checkpoint_1_{n}.pt" for n in (1100, 1000, 900)]


def test_the_sum_is_exact(tmp_path: Path) -> None:
    """In float32 the ones would vanish beside 2**25; in float64 none is lost."""
    values = [2.0**25] + [1.0] * 7
    paths = [
        write_checkpoint(tmp_path / f"{i}.pt", i, weight=torch.tensor([value]))
        for i, value in enumerate(values)
    ]
    with torch.serialization.safe_globals([argparse.Namespace]):
        mean = averaging.average(paths)["model"]["weight"]
    assert mean.dtype == torch.float32
    assert mean.item() == torch.tensor(sum(values) / 8).item() != 2.0**25 / 8


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"steps": torch.tensor([8])}, "steps cannot be averaged"),
        ({"weight": torch.zeros(3, 2)}, r"weight is \(3, 2\)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.float64)}, "float64"),
        ({"other": torch.zeros(1)}, "parameter other"),
    ],
)
def test_models_that_differ_are_refused(
    model: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    paths = [
        write_checkpoint(tmp_path / "a.pt", 1),
        write_checkpoint(tmp_path / "b.pt", 2, **model),
    ]
    allowed = torch.serialization.safe_globals([argparse.Namespace])
    with allowed, pytest.raises(averaging.BadInput, match=message):
        averaging.average(paths)


def test_too_few_checkpoints_are_refused(checkpoints: Path) -> None:
    output = checkpoints / "average.pt"
    done = run(
        "average_checkpoints.py",
        *("--inputs", checkpoints, "--num-epoch-checkpoints", 5, "--output", output),
    )
    assert_refused(done, "holds 4", "5 were asked for")
    assert not output.exists()


def test_unsafe_and_torn_files_are_refused(tmp_path: Path) -> None:
    unsafe = tmp_path / "unsafe.pt"
    torch.save({"model": {}, "args": os.system}, unsafe)
    torn = write_checkpoint(tmp_path / "torn.pt", 1)
    torn.write_bytes(torn.read_bytes()[:-100])
    for path in (unsafe, torn):
        with pytest.raises(averaging.BadInput, match=path.name):
            averaging.load(path)


# Scoring -----------------------------------------------------------------------------------------

REFERENCES = [
    "ein hund läuft .",
    "zwei männer , die reden .",
    "eine frau mit einem sehr roten hut .",
]
RAW = ["Ein Hund läuft.", "Zwei Männer, die reden.", "Eine Frau mit einem sehr roten Hut."]


def generated(hypotheses: dict[int, str]) -> str:
    """What fairseq-generate prints for these translations of REFERENCES."""
    blocks = [
        f"S-{i}\tsource\nT-{i}\t{REFERENCES[i]}\nH-{i}\t-0.5\t{text}\nD-{i}\t-0.5\t{text}\n"
        f"P-{i}\t-0.5 -0.5\n"
        for i, text in hypotheses.items()
    ]
    return "".join(blocks) + "Generate test with beam=5: BLEU4 = 0.00\n"


@pytest.fixture
def translated(tmp_path: Path) -> Path:
    """A folder with a split of three sentences, translated perfectly, the shortest last."""
    index = struct.pack("<9sQBQ", b"MMIDIDX\x00\x00", 1, 8, len(REFERENCES))
    for lang in ("en", "de"):
        (tmp_path / f"test.en-de.{lang}.idx").write_bytes(index)
    text = generated({i: REFERENCES[i] for i in (2, 1, 0)})
    (tmp_path / "generate.txt").write_text(text, encoding="utf-8")
    (tmp_path / "raw.de").write_text("\n".join(RAW) + "\n", encoding="utf-8")
    return tmp_path


def run_score(folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    fixed = ("--generated", folder / "generate.txt", "--data", folder, "--out", folder)
    return run("score.py", *fixed, *more)


def test_perfect_translations_in_corpus_order(translated: Path) -> None:
    done = run_score(translated, "--reference", translated / "raw.de", "--beam", 5)
    assert done.returncode == 0, done.stderr
    assert (translated / "hyp.tok").read_text(encoding="utf-8").splitlines() == REFERENCES
    plain = (translated / "hyp.detok").read_text(encoding="utf-8").splitlines()
    assert plain == [line.lower() for line in RAW]
    scores = json.loads((translated / "scores.json").read_text())
    assert scores["sentences"] == 3
    assert scores["target"] == "de"
    assert scores["beam"] == 5
    for name in ("bleu_tokenised", "sacrebleu", "chrf"):
        assert scores[name]["score"] == 100.0
        assert f"test {name} 100.00" in done.stdout
    assert "case:lc" in scores["sacrebleu"]["signature"]
    assert "tok:none" in scores["bleu_tokenised"]["signature"]


def test_case_counts_once_a_translation_has_a_capital(translated: Path) -> None:
    text = (translated / "generate.txt").read_text(encoding="utf-8")
    text = text.replace("H-0\t-0.5\tein", "H-0\t-0.5\tEin")
    (translated / "generate.txt").write_text(text, encoding="utf-8")
    assert run_score(translated, "--reference", translated / "raw.de").returncode == 0
    result = json.loads((translated / "scores.json").read_text())["sacrebleu"]
    assert "case:mixed" in result["signature"]
    assert result["score"] < 100


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0, 1), ("2 translations", "3 sentences")),
        ((0, 1, 2, 2), ("more than one line T-2",)),
        ((), ("0 translations",)),
    ],
)
def test_lost_or_doubled_translations_are_refused(
    numbers: tuple[int, ...], words: tuple[str, ...], translated: Path
) -> None:
    text = "".join(generated({i: REFERENCES[i]}) for i in numbers)
    (translated / "generate.txt").write_text(text, encoding="utf-8")
    assert_refused(run_score(translated), *words)
    assert not (translated / "scores.json").exists()


def test_a_reference_of_another_length_is_refused(translated: Path) -> None:
    (translated / "raw.de").write_text("Ein Satz.\n")
    done = run_score(translated, "--reference", translated / "raw.de")
    assert_refused(done, "raw.de has 1 lines", "3 sentences")


def test_tokenised_bleu_is_that_of_fairseq() -> None:
    from fairseq.scoring.bleu import BleuConfig, Scorer

    chance = random.Random(1)
    references = [[chance.randint(4, 40) for _ in range(chance.randint(1, 30))] for _ in range(200)]
    hypotheses = [[w for w in words if chance.random() < 0.8] or words for words in references]
    theirs = Scorer(BleuConfig(pad=1, eos=2, unk=3))
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        theirs.add(torch.IntTensor(reference), torch.IntTensor(hypothesis))

    def as_text(sentences: list[list[int]]) -> list[str]:
        return [" ".join(f"w{number}" for number in sentence) for sentence in sentences]

    metric = scoring.tokenised_bleu()
    ours = scoring.score(metric, as_text(hypotheses), as_text(references))["score"]
    assert 20 < ours < 95
    assert ours == pytest.approx(theirs.score(), abs=0.006)


# The whole recipe --------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_resume_average_evaluate(prepared: Path, tmp_path: Path) -> None:
    def train(updates: int) -> subprocess.CompletedProcess[str]:
        return run(
            "train_multi30k.sh",
            *("--arch", "transformer", "--data", prepared / "bin", "--out", tmp_path),
            *("--update-freq", 1, "--max-update", updates),
            *("--", "--max-tokens", 800, "--warmup-updates", 10),
        )

    first = train(16)
    assert first.returncode == 0, first.stderr
    assert "where the recipe averages 10" in first.stderr
    last = tmp_path / "checkpoints/checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    second = train(32)
    assert second.returncode == 0, second.stderr
    assert "checkpoint_last.pt is torn: going on from checkpoint" in second.stderr
    for split, size in {"valid": 21, "test": 19}.items():
        folder = tmp_path / split
        assert len(scoring.read_lines(folder / "hyp.tok")) == size
        assert (folder / "ref.tok").read_text() == (prepared / f"text/{split}.de").read_text()
        assert json.loads((folder / "scores.json").read_text())["sentences"] == size
        assert f"{split} sacrebleu" in second.stdout
    again = train(32)
    assert again.returncode == 0
    assert "trained already" in again.stderr
    assert again.stdout.splitlines()[-6:] == second.stdout.splitlines()[-6:]


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
    assert scoring.score(BLEU(lowercase=True), plain, raw)["score"] > 99


@pytest.mark.slow
def test_real_corpus_has_the_published_sizes(multi30k: Path, tmp_path: Path) -> None:
    done = run("prepare_multi30k.sh", "--from", multi30k, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note:" not in done.stderr
    for split, size in {"train": 29000, "valid": 1014, "test": 1000}.items():
        assert scoring.Corpus.of(tmp_path / "bin", split).sentences == size
    assert len(scoring.read_lines(tmp_path / "bin/dict.en.txt")) + 4 == 9712
