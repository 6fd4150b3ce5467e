"""Bad input is refused in a sentence, or makes no difference: no hang, no silent wrong answer, no
code executed. What is tried is generated, with more examples where slow tests are asked for.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from hypothesis import strategies as st
from tqdm import tqdm

import revcol_nlp.models  # noqa: F401 (installs the patches)
from revcol_nlp.models import RevColTransformerModel
from scripts.translation import average_checkpoints as averaging
from scripts.translation import score as scoring
from scripts.translation import translate as translating
from tests.helpers.bad_input import (
    CONTENT_DAMAGES,
    FILE_DAMAGES,
    VALUES,
    Refusal,
    command_line,
    damaged,
    examples,
    outcome,
    try_all,
    with_damaged_content,
)
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING
from tests.helpers.forked import run_forked

# Checkpoints of fairseq


@pytest.fixture(scope="module")
def checkpoint(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    ended = run_forked(
        *("fairseq-train", toy_data, *TINY_MODEL, *TRAINING, "--max-update", "2"),
        *("--save-dir", folder, "--no-epoch-checkpoints", "--encoder-columns", "2"),
        folder=folder,
    )
    assert ended.status == 0, ended.output[-3000:]
    return folder / "checkpoint_last.pt"


def load(path: Path, data: Path) -> tuple[RevColTransformerModel, Any]:
    """As fairseq-generate, fairseq-interactive and the hub interface load it."""
    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(path)], arg_overrides={"data": str(data)}
    )
    return models[0], task


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)


@examples(few=12, many=60)
def test_checkpoints_with_other_content(
    checkpoint: Path, toy_data: Path, tmp_path: Path, number: int
) -> None:
    right = load(checkpoint, toy_data)[0].state_dict()
    file, executed = tmp_path / "checkpoint.pt", tmp_path / "executed"

    def check(damage: tuple) -> None:
        state = torch.load(checkpoint)
        torch.save(with_damaged_content(state, "model", damage, executed), file)
        found = outcome(lambda: load(file, toy_data))
        assert isinstance(found, Refusal) or same(found[0].state_dict(), right)
        assert not executed.exists()

    try_all(number, check, damage=CONTENT_DAMAGES)


@examples(few=8, many=40)
def test_checkpoints_with_other_bytes(
    checkpoint: Path, toy_data: Path, tmp_path: Path, number: int
) -> None:
    right = load(checkpoint, toy_data)[0].state_dict()
    file = tmp_path / "checkpoint.pt"

    def check(damage: tuple) -> None:
        file.write_bytes(damaged(checkpoint.read_bytes(), damage))
        found = outcome(lambda: load(file, toy_data))
        if isinstance(found, Refusal):
            assert str(file) in found
        else:
            assert same(found[0].state_dict(), right)

    try_all(number, check, damage=FILE_DAMAGES)


def test_a_checkpoint_that_executes_code_would_do_so_if_it_were_let(
    checkpoint: Path, toy_data: Path, tmp_path: Path
) -> None:
    file, executed = tmp_path / "checkpoint.pt", tmp_path / "executed"
    damage = ("key executes", 0)
    torch.save(with_damaged_content(torch.load(checkpoint), "model", damage, executed), file)
    refusal = outcome(lambda: load(file, toy_data))
    assert "it holds posix.mkdir, which could run code" in refusal and not executed.exists()
    torch.load(file, weights_only=False)
    assert executed.exists()


# Dictionaries

LINE_DAMAGES = st.one_of(
    st.tuples(st.just("lost"), st.integers(0, 30)),
    st.tuples(st.just("swapped"), st.integers(0, 30)),
    st.tuples(st.just("doubled"), st.integers(0, 30)),
    st.tuples(
        st.just("replaced"),
        st.integers(0, 30),
        st.sampled_from([b"", b"word", b"word x", b"word 1 2", b"w\xff 1", b"a\0b 1", b"w5 -7"]),
    ),
    st.tuples(st.just("replaced"), st.integers(0, 30), st.binary(max_size=20)),
)


def with_damaged_lines(lines: Sequence[bytes], damage: tuple) -> bytes:
    kind, which, *how = damage
    lines, which = list(lines), which % (len(lines) - 1)
    if kind == "lost":
        del lines[which]
    elif kind == "swapped":
        lines[which : which + 2] = lines[which : which + 2][::-1]
    elif kind == "doubled":
        lines.insert(which, lines[which])
    else:
        lines[which] = how[0] + b"\n"
    return b"".join(lines)


@examples(few=5, many=30)
def test_dictionaries(checkpoint: Path, toy_data: Path, tmp_path: Path, number: int) -> None:
    lines = (toy_data / "dict.src.txt").read_bytes().splitlines(keepends=True)
    right, task = load(checkpoint, toy_data)
    shutil.copy(toy_data / "dict.tgt.txt", tmp_path)

    def check(damage: tuple) -> None:
        (tmp_path / "dict.src.txt").write_bytes(with_damaged_lines(lines, damage))
        found = outcome(lambda: load(checkpoint, tmp_path))
        if not isinstance(found, Refusal):
            assert same(found[0].state_dict(), right.state_dict())
            assert found[1].source_dictionary.symbols == task.source_dictionary.symbols

    try_all(number, check, damage=LINE_DAMAGES)


# Binarised corpora


@examples(few=8, many=40)
def test_binarised_corpora(checkpoint: Path, toy_data: Path, tmp_path: Path, number: int) -> None:
    """A bit flipped in the tokens is not tried: fairseq's format has no checksums to see it by."""
    _, task = load(checkpoint, toy_data)
    data = tmp_path / "data"
    shutil.copytree(toy_data, data)
    suffixes = [f"{language}.{kind}" for language in ("src", "tgt") for kind in ("idx", "bin")]

    def pairs(folder: Path) -> list[tuple[list[int], list[int]]]:
        task.cfg.data = str(folder)
        task.load_dataset("test")
        dataset = task.dataset("test")
        items = (dataset[i] for i in range(len(dataset)))
        return [(item["source"].tolist(), item["target"].tolist()) for item in items]

    right = pairs(toy_data)

    def check(suffix: str, damage: tuple) -> None:
        original, file = (folder / f"test.src-tgt.{suffix}" for folder in (toy_data, data))
        is_tokens = suffix.endswith("bin")
        if is_tokens and damage[0] in ("byte flipped", "blocks not written"):
            damage = ("cut off", damage[1])
        file.write_bytes(damaged(original.read_bytes(), damage))
        found = outcome(lambda: pairs(data))
        shutil.copy(original, file)
        if isinstance(found, Refusal):
            assert "again with fairseq-preprocess" in found
        else:
            assert found == right

    try_all(number, check, suffix=st.sampled_from(suffixes), damage=FILE_DAMAGES)


# Options of the model

INTEGERS = (
    *("--encoder-columns", "--encoder-keep-columns", "--encoder-embed-dim", "--decoder-layers"),
    *("--encoder-ffn-embed-dim", "--encoder-attention-heads", "--decoder-embed-dim"),
    *("--decoder-ffn-embed-dim", "--decoder-attention-heads", "--max-source-positions"),
    *("--max-target-positions", "--encoder-layers", "--max-tokens"),
)
NUMBERS = (
    *("--dropout", "--attention-dropout", "--activation-dropout", "--encoder-drop-path"),
    *("--encoder-keyframe-budget", "--decoder-layerdrop", "--encoder-layerdrop", "--lr"),
)
WORDS = ("--encoder-column-blocks", "--encoder-fusion", "--activation-fn", "--arch", "--criterion")
# A model of any size may be asked for, and one that is too large would fill the memory.
SIZES = tuple(value for value in VALUES if value not in ("1000000000", "9" * 30))
BLOCKS = ("1", "1,1,1,1,1", "0,1,1,1", "-1,1,1,1", ",,,", "1;1;1;1")
OPTIONS = st.one_of(
    st.tuples(st.sampled_from(INTEGERS), st.sampled_from(SIZES)),
    st.tuples(st.sampled_from(NUMBERS), st.sampled_from(VALUES)),
    st.tuples(st.sampled_from(WORDS), st.sampled_from(VALUES + BLOCKS)),
    st.tuples(st.sampled_from(["--encoder-colums", "--columns", "--no-reversible"]), st.just("2")),
)


def named(option: str, sentence: str) -> bool:
    """As on the command line, or in the words of the columns, which know of no command line."""
    word = option.strip("-").removeprefix("encoder-").replace("-", "_")
    return option in sentence or word in sentence or "unrecognized arguments" in sentence


@examples(few=12, many=60)
def test_options_of_the_model(toy_data: Path, number: int) -> None:
    tokens = torch.arange(4, 12).view(1, -1)

    def build(option: tuple[str, str]) -> torch.Tensor:
        arguments = [str(toy_data), *map(str, (*TINY_MODEL, *TRAINING)), f"{option[0]}={option[1]}"]
        parser = options.get_training_parser()
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, arguments))
        model = tasks.setup_task(cfg.task).build_model(cfg.model)
        torch.manual_seed(0)
        return model.train()(tokens, None, tokens)[0]

    def check(option: tuple[str, str]) -> None:
        found = outcome(lambda: build(option))
        if isinstance(found, Refusal):
            assert named(option[0], found), found
        else:
            assert found.isfinite().all()

    try_all(number, check, option=OPTIONS)


# Text

LINES = st.one_of(
    st.lists(st.sampled_from([b"w1", b"w2", b"w3"]), min_size=1, max_size=5).map(b" ".join),
    st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")),
    st.sampled_from([b"", b" ", b"\0", b"w1\0w2", b"\xff", b"w1 \xe2\x80\xa8 w2", b"w1\rw2"]),
    st.sampled_from([b"w1 " * 1500, b"x" * 200_000, "\u00fc\U0001f600".encode()]),
)


@examples(few=4, many=25)
def test_text_to_translate(checkpoint: Path, toy_data: Path, tmp_path: Path, number: int) -> None:
    """One line out for each line in, and that of a line does not depend on its neighbours."""
    arguments = ("--path", checkpoint, "--data", toy_data, "--beam", 1, "--device", "cpu")
    with command_line(*arguments):
        hub = translating.load_model(translating.parse_args())
    hub.cfg.generation.max_len_a, hub.cfg.generation.max_len_b = 0, 5
    known: dict[bytes, str] = {}

    def translate(lines: Sequence[bytes]) -> list[str]:
        (tmp_path / "text").write_bytes(b"".join(line + b"\n" for line in lines))
        with (tmp_path / "text").open("rb") as file, tqdm(disable=True) as progress:
            found = translating.translate(hub, [file], 100, progress)
            return [line for lines in found for line in lines]

    def check(lines: list[bytes]) -> None:
        together = outcome(lambda: translate(lines))
        for line in set(lines) - known.keys():
            (known[line],) = translate([line])
        assert together == [known[line] for line in lines]

    try_all(number, check, lines=st.lists(LINES, max_size=6))
    assert any(known.values())


# Scripts


@examples(few=6, many=30)
def test_checkpoints_to_average(checkpoint: Path, tmp_path: Path, number: int) -> None:
    right = torch.load(checkpoint)["model"]
    bad, average = tmp_path / "bad.pt", tmp_path / "average.pt"
    executed = tmp_path / "executed"

    def check(damage: tuple[bool, tuple]) -> None:
        in_content, how = damage
        if in_content:
            state = torch.load(checkpoint)
            torch.save(with_damaged_content(state, "model", how, executed), bad)
        else:
            bad.write_bytes(damaged(checkpoint.read_bytes(), how))
        with command_line("--inputs", checkpoint, bad, "--output", average):
            found = outcome(averaging.main)
        assert isinstance(found, Refusal) or same(torch.load(average)["model"], right)
        assert not executed.exists()
        average.unlink(missing_ok=True)

    content = st.tuples(st.just(True), CONTENT_DAMAGES)
    try_all(number, check, damage=content | st.tuples(st.just(False), FILE_DAMAGES))


@examples(few=6, many=30)
def test_translations_to_score(toy_data: Path, tmp_path: Path, number: int) -> None:
    lines = [f"{kind}-{i}\t{'-1.0' + chr(9) if kind == 'H' else ''}w1 w2 w{i}\n".encode()
             for i in range(60) for kind in "TH"]  # fmt: skip

    def check(damage: tuple) -> None:
        generated = with_damaged_lines(lines, damage)
        (tmp_path / "generated").write_bytes(generated)
        (tmp_path / "scores.json").unlink(missing_ok=True)
        arguments = ("--generated", tmp_path / "generated", "--data", toy_data, "--out", tmp_path)
        with command_line(*arguments):
            found = outcome(scoring.main)
        if not isinstance(found, Refusal):
            hypotheses = (tmp_path / "hyp.tok").read_bytes().splitlines()
            assert hypotheses == [line.split(b"\t")[2].rstrip(b"\n") for line in lines[1::2]]

    try_all(number, check, damage=LINE_DAMAGES)


# Command lines

COMMAND_LINES = {
    "an unknown option": (("--nonsense", "1"), "unrecognized arguments: --nonsense 1"),
    "no number": (("--max-epoch", "x"), "invalid int value: 'x'"),
    "no such data": (("--valid-subset", "nowhere"), "Dataset not found: nowhere"),
    "conflicting": (
        ("--finetune-from-model", "x.pt", "--restore-file", "y.pt"),
        "--finetune-from-model and --restore-file",
    ),
    "no such checkpoint": (("--finetune-from-model", "x.pt"), "x.pt does not exist"),
    "no folder": (
        ("--save-dir", "/dev/null/folder"),
        "--save-dir /dev/null/folder is not a folder",
    ),
    "no such plugin": (("--user-dir", "nowhere"), "nowhere"),
    "no such criterion": (("--criterion", "nothing"), "invalid choice: 'nothing'"),
}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(*case, id=name, marks=() if i in (0, 5) else pytest.mark.slow)
        for i, (name, case) in enumerate(COMMAND_LINES.items())
    ],
)
def test_command_lines(
    toy_data: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    command = ("fairseq-train", toy_data, *TINY_MODEL, *TRAINING, "--max-update", "1")
    ended = run_forked(*command, "--save-dir", tmp_path, *options, folder=tmp_path)
    assert ended.status > 0
    assert words in ended.last_line
