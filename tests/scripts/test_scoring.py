"""scripts/translation/score.py and compare.py: scores of translations, and their comparison."""

import json
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.translation import compare
from scripts.translation import score as scoring
from tests.helpers.scripts import assert_refused, run_script

REFERENCES = [
    "ein hund läuft .",
    "zwei männer , die reden .",
    "eine frau mit einem sehr roten hut .",
]
RAW = ["Ein Hund läuft.", "Zwei Männer, die reden.", "Eine Frau mit einem sehr roten Hut."]


def write_generated(hypotheses: dict[int, str]) -> str:
    """Write what fairseq-generate prints for these translations of `REFERENCES`."""
    blocks = [
        f"S-{i}\tsource\nT-{i}\t{REFERENCES[i]}\nH-{i}\t-0.5\t{text}\nD-{i}\t-0.5\t{text}\n"
        f"P-{i}\t-0.5 -0.5\n"
        for i, text in hypotheses.items()
    ]
    return "".join(blocks) + "Generate test with beam=5: BLEU4 = 0.00\n"


@pytest.fixture
def translated(tmp_path: Path) -> Path:
    """A folder with a perfectly translated split of three sentences, the shortest one last."""
    index = struct.pack("<9sQBQ", b"MMIDIDX\x00\x00", 1, 8, len(REFERENCES))
    for lang in ("en", "de"):
        (tmp_path / f"test.en-de.{lang}.idx").write_bytes(index)
    text = write_generated({i: REFERENCES[i] for i in (2, 1, 0)})
    (tmp_path / "generate.txt").write_text(text, encoding="utf-8")
    (tmp_path / "raw.de").write_text("\n".join(RAW) + "\n", encoding="utf-8")
    return tmp_path


def run_score(folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    fixed = ("--generated", folder / "generate.txt", "--data", folder, "--out", folder)
    return run_script("translation/score.py", *fixed, *more)


def test_perfect_translations_get_perfect_scores_in_the_order_of_the_corpus(
    translated: Path,
) -> None:
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


def test_case_counts_if_a_translation_has_a_capital(translated: Path) -> None:
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
def test_missing_or_doubled_translations_are_refused(
    numbers: tuple[int, ...], words: tuple[str, ...], translated: Path
) -> None:
    text = "".join(write_generated({i: REFERENCES[i]}) for i in numbers)
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

    metric = scoring.build_tokenised_bleu()
    ours = scoring.compute_score(metric, as_text(hypotheses), as_text(references))["score"]
    assert 20 < ours < 95
    assert ours == pytest.approx(theirs.score(), abs=0.006)


# Compounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "as_perl_does"),
    [
        ("a-b-c", "a ##AT##-##AT## b-c"),
        ("state-of-the-art x - y -z q- p", "state ##AT##-##AT## of ##AT##-##AT## the "
         "##AT##-##AT## art x - y -z q- p"),
        ("--- a--b", "- ##AT##-##AT## - a ##AT##-##AT## -b"),
        ("ü-é\u00a0-x", "ü ##AT##-##AT## é\u00a0 ##AT##-##AT## x"),
    ],
)  # fmt: skip
def test_compounds_are_split_as_for_the_published_tables(line: str, as_perl_does: str) -> None:
    """The right-hand sides are what fairseq's `perl -ple 's{(\\S)-(\\S)}{...}g'` prints."""
    assert scoring.split_compounds(line) == as_perl_does


def test_compounds_that_moses_has_split_count_the_same() -> None:
    from sacremoses import MosesTokenizer

    text = "Der SPD-nahe Rad- und Fußweg-Plan von Baden-Württemberg, 2-mal - so A-b-Test."
    whole, dashed = (
        MosesTokenizer("de").tokenize(text, aggressive_dash_splits=dashes, return_str=True)
        for dashes in (False, True)
    )
    assert "@-@" in dashed and "@-@" not in whole
    assert scoring.split_compounds(dashed) == scoring.split_compounds(whole)
    assert scoring.split_compounds(whole).count("##AT##-##AT##") == 5


def test_compound_split_bleu_is_for_english_to_german_only(translated: Path) -> None:
    text = write_generated({0: "ein roter-hund läuft .", 1: REFERENCES[1], 2: REFERENCES[2]})
    (translated / "generate.txt").write_text(text.replace(REFERENCES[0], "ein-hund läuft ."))
    assert run_score(translated).returncode == 0
    scores = json.loads((translated / "scores.json").read_text())
    assert scores["source"] == "en"
    split = [
        "ein roter ##AT##-##AT## hund läuft .\n" + "\n".join(REFERENCES[1:]),
        "ein ##AT##-##AT## hund läuft .\n" + "\n".join(REFERENCES[1:]),
    ]
    by_hand = scoring.compute_score(
        scoring.build_tokenised_bleu(), *(text.split("\n") for text in split)
    )
    assert scores["bleu_compound_split"] == by_hand
    assert by_hand["score"] != scores["bleu_tokenised"]["score"]
    assert "bleu_compound_split" not in scoring.collect_measures(translated, ("fr", "de"))
    assert "bleu_compound_split" not in scoring.collect_measures(translated, ("de", "en"))


# Comparing ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scored translations of 60 sentences: bad, good, and again, a copy of bad."""
    folder, chance = tmp_path_factory.mktemp("systems"), random.Random(4)
    words = [f"Wort-{n}" if n % 9 == 0 else f"wort{n}" for n in range(90)]
    references = [" ".join(chance.choices(words, k=chance.randint(4, 20))) for _ in range(60)]
    for language in ("en", "de"):
        index = struct.pack("<9sQBQ", b"MMIDIDX\x00\x00", 1, 8, len(references))
        (folder / f"test.en-de.{language}.idx").write_bytes(index)
    (folder / "raw.de").write_text("".join(f"{line}\n" for line in references))
    for name, kept in {"bad": 0.7, "good": 0.9}.items():
        lines = [
            f"T-{i}\t{line}\nH-{i}\t-1\t"
            + " ".join(word for word in line.split() if chance.random() < kept)
            for i, line in enumerate(references)
        ]
        (folder / name).mkdir()
        (folder / name / "generate.txt").write_text("\n".join(lines) + "\n")
        scored = run_script(
            *(
                "translation/score.py",
                "--generated",
                folder / name / "generate.txt",
                "--data",
                folder,
            ),
            *("--out", folder / name, "--reference", folder / "raw.de"),
            *("--checkpoint", f"{name}.pt", "--beam", 4, "--lenpen", 0.6),
        )
        assert scored.returncode == 0, scored.stderr
    shutil.copytree(folder / "bad", folder / "again")
    return folder


def run_compare(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["translation/compare.py", *map(str, arguments)])
    compare.main()


def test_the_better_system_is_better_by_sacrebleus_own_figures(
    systems: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [f"{name}={systems / name}" for name in ("bad", "good", "again")]
    run_compare(monkeypatch, *both, "--resamples", 200, "--json", systems / "all.json")
    printed = capsys.readouterr().out
    found = json.loads((systems / "all.json").read_text())
    theirs = subprocess.run(
        [
            *(sys.executable, "-m", "sacrebleu", systems / "raw.de", "-i"),
            *(systems / "bad/hyp.detok", systems / "good/hyp.detok", "-m", "bleu", "chrf"),
            *("--paired-bs", "--paired-bs-n", "200", "-w", "2", "--format", "latex"),
        ],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for system in ("bad", "good"):
        for measure in ("sacrebleu", "chrf"):
            score = found["systems"][system]["scores"][measure]
            figures = f"{score['score']:.2f} ({score['mean']:.2f} ± {score['half_interval']:.2f})"
            assert figures + (f" (p = {score['p']:.4f})*" if score["p"] else "") in theirs
    good = found["systems"]["good"]
    assert (good["checkpoint"], good["beam"], good["lenpen"]) == ("good.pt", 4, 0.6)
    for name, score in good["scores"].items():
        assert f"{score['score']:.2f} ± {score['half_interval']:.2f} (p = 0.0050)" in printed
        assert score["score"] > found["systems"]["bad"]["scores"][name]["score"]
    assert "bs:200|seed:12345" in found["signatures"]["bleu_compound_split"]
    verdicts = printed.splitlines()[-2:]
    assert verdicts[0].startswith("good is better than bad: sacreBLEU +")
    assert verdicts[1].startswith(
        "again does not differ significantly from bad: sacreBLEU +0.00, p = 1.0000"
    )
    titles = [title.strip() for title in printed.splitlines()[0].strip("|").split("|")]
    assert titles == [
        *("system", "beam", "length penalty", "sacreBLEU", "tokenised BLEU"),
        *("compound-split BLEU", "chrF"),
    ]


def test_a_worse_system_is_worse_and_a_single_system_is_not_tested(
    systems: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = f"bad={systems / 'bad'}", f"good={systems / 'good'}"
    run_compare(monkeypatch, good, bad, "--resamples", 100)
    assert (
        capsys.readouterr().out.splitlines()[-1].startswith("bad is worse than good: sacreBLEU -")
    )
    run_compare(monkeypatch, good, "--resamples", 100)
    alone = capsys.readouterr().out
    assert re.search(r"^\| good +\| +4 \| +0.6 \| ", alone, re.M) and " ± " in alone
    assert "(p = " not in alone and "better" not in alone


def change(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "arguments", "words"),
    [
        (None, ("good",), ("NAME=FOLDER", "'good'")),
        (None, ("a={0}/nowhere",), ("nowhere holds no scores.json",)),
        (None, ("a={0}/bad", "a={0}/good"), ("two systems have the same name",)),
        (None, ("a={0}/bad", "--resamples", "10"), ("at least 100",)),
        (None, ("a={0}/bad", "--json", "{0}/no/x.json"), ("no folder", "x.json")),
        (
            ("ref.tok", "wort1 ", "wort2 "),
            ("a={0}/bad", "b={0}/odd"),
            ("have different references",),
        ),
        (
            ("hyp.detok", "W", "w"),
            ("a={0}/bad", "b={0}/odd"),
            ("only one of a and b writes capital",),
        ),
        (("scores.json", "source", "from"), ("b={0}/odd",), ("lacks 'source'",)),
    ],
)
def test_systems_that_cannot_be_compared_are_refused_in_a_sentence(
    damage: tuple[str, str, str] | None,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    systems: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("bad", "odd", "good"):
        shutil.copytree(systems / name.replace("odd", "good"), tmp_path / name)
    if damage:
        change(tmp_path / "odd", *damage)
    with pytest.raises(SystemExit) as end:
        run_compare(monkeypatch, *(argument.format(tmp_path) for argument in arguments))
    sentence = capsys.readouterr().err
    assert end.value.code == 2
    assert sentence.startswith("error: ") and sentence.count("\n") == 1
    assert all(word in sentence for word in words), sentence


def test_scores_with_and_without_a_raw_reference_are_not_compared(
    systems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(systems / "good", tmp_path / "good")
    done = run_script(
        *("translation/score.py", "--generated", tmp_path / "good/generate.txt", "--data", systems),
        *("--out", tmp_path / "good"),
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "good/hyp.detok").exists()
    with pytest.raises(SystemExit):
        run_compare(monkeypatch, f"a={systems / 'bad'}", f"b={tmp_path / 'good'}")
    assert "only one of a and b has" in capsys.readouterr().err
