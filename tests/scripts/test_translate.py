"""Translating text with the hub interface and with scripts/translation/translate.py."""

import io
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fairseq import utils
from fairseq.hub_utils import GeneratorHubInterface
from subword_nmt.learn_bpe import learn_bpe
from tqdm import tqdm

from revcol_nlp.models import RevColTransformerModel
from scripts.translation import translate as translating
from tests.helpers.scripts import ENVIRONMENT, build_command


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, trained: Path, toy_data: Path) -> Path:
    """A folder with everything that translating needs, without the training data."""
    folder = tmp_path_factory.mktemp("released")
    shutil.copy(trained / "checkpoint_last.pt", folder / "model.pt")
    for language in ("src", "tgt"):
        shutil.copy(toy_data / f"dict.{language}.txt", folder)
    with (folder / "bpecodes").open("w") as codes:
        learn_bpe(["w1 w2 w1 w2"], codes, 10)
    return folder


# The hub interface


def test_a_folder_without_training_data_is_enough(
    released: Path, trained: Path, toy_data: Path
) -> None:
    lines = ["w1 w2 w3", "w4 w5 w6 w7 w8", "w9"]
    elsewhere = RevColTransformerModel.from_pretrained(trained, "checkpoint_last.pt", toy_data)
    translator = RevColTransformerModel.from_pretrained(released)
    assert translator.tokenizer is None and translator.bpe is None
    found = translator.translate(lines, beam=4, lenpen=0.6)
    assert found == elsewhere.translate(lines, beam=4, lenpen=0.6)
    assert len(found) == 3 and all(found)
    assert translator.translate("w1 w2 w3", beam=4) == translator.translate(lines, beam=4)[0]


def test_raw_text_is_tokenised_in_the_models_languages_and_split_into_subwords(
    released: Path,
) -> None:
    translator = RevColTransformerModel.from_pretrained(
        released, tokenizer="moses", bpe="subword_nmt"
    )
    assert (translator.tokenizer.tok.lang, translator.tokenizer.detok.lang) == ("src", "tgt")
    assert translator.apply_bpe(translator.tokenize("w1, w2w3.")) == "w1 , w@@ 2@@ w@@ 3 ."
    assert len(translator.encode("w1, w2w3.")) == 8
    tokens = translator.tgt_dict.encode_line("w1 w2", add_if_not_exist=False)
    assert translator.decode(tokens) == "w1 w2"
    assert translator.detokenize(translator.remove_bpe("w@@ 1 , w2 .")) == "w1, w2."
    assert len(translator.translate(["w1, w2."], beam=4)) == 1


def test_named_codes_are_used_even_if_the_folder_has_others(released: Path, tmp_path: Path) -> None:
    with (tmp_path / "codes").open("w") as codes:
        learn_bpe(["ab ab"], codes, 10)
    translator = RevColTransformerModel.from_pretrained(
        released, bpe="subword_nmt", bpe_codes=str(tmp_path / "codes")
    )
    assert translator.apply_bpe("ab w1") == "ab w@@ 1"


def test_a_missing_file_is_named(released: Path, trained: Path) -> None:
    for arguments, name in {
        ("/nowhere",): "/nowhere/model.pt",
        (trained,): f"{trained}/model.pt",
        (released, "model.pt:model2.pt"): f"{released}/model2.pt",
        (released, "model.pt", "/nowhere"): "/nowhere",
        (trained, "checkpoint_last.pt"): f"{trained}/dict.src.txt",
    }.items():
        with pytest.raises(FileNotFoundError, match=name):
            RevColTransformerModel.from_pretrained(*arguments)


# Lines


@pytest.fixture(scope="module")
def hub(released: Path) -> GeneratorHubInterface:
    sys_argv = ["translation/translate.py", "--path", str(released / "model.pt"), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", sys_argv)
        return translating.load_model(translating.parse_args())


@pytest.fixture
def echo(hub: GeneratorHubInterface, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Make each sentence its own translation; the list gets the shape of each batch."""
    shapes = []

    def answer(generator: Any, models: Any, sample: dict[str, Any]) -> list[list[dict[str, Any]]]:
        source = sample["net_input"]["src_tokens"]
        shapes.append(tuple(source.shape))
        return [[{"tokens": utils.strip_pad(row, hub.src_dict.pad())}] for row in source]

    monkeypatch.setattr(hub.task, "inference_step", answer)
    return shapes


def translate_text(hub: GeneratorHubInterface, text: bytes, buffer_size: int = 100) -> list[str]:
    """Translate a text and return its lines."""
    with tqdm(disable=True) as progress:
        found = translating.translate(hub, [io.BytesIO(text)], buffer_size, progress)
        return [line for lines in found for line in lines]


HOSTILE = {
    b"w1 w2": "w1 w2",
    b"": "",
    b"w3\r": "w3",
    b"\r": "",
    b"w4 \xe2\x80\xa8 w5": "w4 w5",
    b"w6\x85w7": "",
    b"\xff\xfe": "",
    b"w1\xc2\x85w2": "w1 w2",
    b"w8\rw9": "w8 w9",
    b" \t ": "",
    b"w1 " * 5000: "",
    b"w2 " * 1023: " ".join(["w2"] * 1023),
    b"w2 " * 1024: "",
    b"x" * 200_000: "",
    b"w1\x1cw2\x0cw3": "w1 w2 w3",
    b"nowhere-seen": "<unk>",
    b"w9 w9 w9": "w9 w9 w9",
}


@pytest.mark.parametrize("buffer_size", [1, 3, 100])
@pytest.mark.parametrize("end", [b"\n", b""], ids=["line feed", "no line feed"])
def test_each_line_has_its_translation_in_the_same_place(
    hub: GeneratorHubInterface, echo: list, buffer_size: int, end: bytes
) -> None:
    assert translate_text(hub, b"\n".join(HOSTILE) + end, buffer_size) == list(HOSTILE.values())


def test_each_untranslated_line_is_reported_with_the_reason(
    hub: GeneratorHubInterface, echo: list, capsys: pytest.CaptureFixture[str]
) -> None:
    translate_text(hub, b"\n".join(HOSTILE), buffer_size=4)
    assert capsys.readouterr().err.splitlines() == [
        f"line {number} {fault}: its translation is empty"
        for number, fault in {
            2: "is empty",
            4: "is empty",
            6: "is not valid UTF-8 (byte 3)",
            7: "is not valid UTF-8 (byte 1)",
            10: "is empty",
            11: "has 5001 tokens, over 1024",
            13: "has 1025 tokens, over 1024",
            14: "has 65536 bytes or more",
        }.items()
    ]


def test_no_lines_give_no_lines(hub: GeneratorHubInterface, echo: list) -> None:
    assert translate_text(hub, b"") == []
    assert translate_text(hub, b"\n") == [""]


def test_batches_hold_lines_of_similar_length_and_at_most_max_tokens(
    hub: GeneratorHubInterface, echo: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub.cfg.dataset, "max_tokens", 60)
    lines = [" ".join(["w1"] * (1 + n * 7 % 20)) for n in range(20)]
    assert translate_text(hub, "\n".join(lines).encode()) == lines
    assert all(sentences * length <= 60 for sentences, length in echo)
    assert max(sentences for sentences, _ in echo) > 5
    assert sum(sentences * length for sentences, length in echo) < 1.2 * sum(range(2, 22))
    assert translate_text(hub, b"w1 " * 60) == [""]


def test_at_most_the_lines_of_the_buffer_are_read(hub: GeneratorHubInterface, echo: list) -> None:
    taken = []

    class Endless(io.BytesIO):
        def readline(self, size: int = -1) -> bytes:
            taken.append(size)
            return b"w1 w2\n"

    with tqdm(disable=True) as progress:
        found = translating.translate(hub, [Endless()], 7, progress)
        for buffers in (1, 2, 3):
            assert next(found) == ["w1 w2"] * 7
            assert len(taken) == 7 * buffers
    assert set(taken) == {65536}  # at most so many bytes of a line
    assert hub.task.dataset_to_epoch_iter == {}


def test_files_are_translated_in_order_and_progress_counts_every_line(
    hub: GeneratorHubInterface, echo: list, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in "abc"]
    for path, text in zip(files, (b"w1\n\nw2", b"", b"w3\n"), strict=True):
        path.write_bytes(text)
    assert translating.count_lines(files) == 4
    assert translating.count_lines([]) is None
    with tqdm(file=io.StringIO()) as progress:
        found = translating.translate(hub, translating.open_files(files), 3, progress)
        assert list(found) == [["w1", "", "w2"], ["w3"]]
        assert progress.n == 4


def test_punctuation_is_normalised_as_for_the_wmt_data(
    hub: GeneratorHubInterface,
) -> None:
    normalize = translating.build_normalizer(Namespace(normalize=True), hub)
    assert normalize("„w1“  …\n") == normalize("„w1“  …") == '"w1" ...'
    assert translating.build_normalizer(Namespace(normalize=False), hub)("„w1“") == "„w1“"


# The command


@pytest.fixture
def command(
    released: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[bytes, str]]:
    """``command(*arguments, stdin=b"")`` runs the command in this process and returns its
    standard output and standard error."""

    def call(*arguments: object, stdin: bytes = b"") -> tuple[bytes, str]:
        monkeypatch.setattr(sys, "argv", ["translation/translate.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            translating.main()
        finally:
            printed = capsysbinary.readouterr()
            call.stderr = printed.err.decode()
        return printed.out, call.stderr

    return call


def test_files_and_pipes_get_the_translations_of_the_hub_interface(
    command: Callable[..., Any], released: Path, tmp_path: Path
) -> None:
    text = "w1 , w2w3\n\nw4 w5 w6 w7\n"
    (tmp_path / "text").write_text(text)
    options = ("--path", released / "model.pt", "--tokenizer", "moses", "--device", "cpu")
    options += ("--bpe-codes", released / "bpecodes", "--beam", 3, "--lenpen", 1.5)
    from_pipe, notes = command(*options, stdin=text.encode())
    from_file, _ = command(*options, tmp_path / "text")
    translator = RevColTransformerModel.from_pretrained(
        released, tokenizer="moses", bpe="subword_nmt"
    )
    expected = [
        translator.translate(line, beam=3, lenpen=1.5, max_len_a=1) if line else ""
        for line in text.splitlines()
    ]
    assert from_pipe.decode().split("\n") == [*expected, ""]
    assert from_file == from_pipe
    assert "line 2 is empty: its translation is empty" in notes


def test_an_ensemble_translates_with_dictionaries_of_another_folder(
    command: Callable[..., Any],
    trained: Path,
    toy_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(toy_data)  # fairseq would resolve "." relative to the checkpoint
    paths = f"{trained / 'checkpoint_last.pt'}:{trained / 'checkpoint1.pt'}"
    output, _ = command("--path", paths, "--data", ".", "--device", "cpu", stdin=b"w1\nw2\n")
    assert output.count(b"\n") == 2


def test_options_reach_the_generator(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--path", str(released / "model.pt"), "--beam", "7", "--lenpen", "1.5"]
    arguments += ["--max-tokens", "99", "--tokenizer", "moses", "--no-dash-splits"]
    monkeypatch.setattr(sys, "argv", ["translation/translate.py", *arguments])
    hub = translating.load_model(translating.parse_args())
    generator = hub.task.build_generator(hub.models, hub.cfg.generation)
    assert (generator.beam_size, generator.len_penalty) == (7, 1.5)
    assert (generator.max_len_a, generator.max_len_b) == (1, 200)
    assert hub.cfg.dataset.max_tokens == 99
    assert hub.tokenize("ab-cd") == "ab-cd"


def truncate_checkpoint(folder: Path) -> tuple[object, ...]:
    shutil.copy(folder / "model.pt", folder / "truncated.pt")
    os.truncate(folder / "truncated.pt", 5000)
    return ("--path", folder / "truncated.pt")


def permute_dictionary(folder: Path) -> tuple[object, ...]:
    (folder / "permuted").mkdir()
    for path in folder.glob("dict.*.txt"):
        lines = path.read_text().splitlines(keepends=True)
        (folder / "permuted" / path.name).write_text("".join(reversed(lines)))
    return ("--path", folder / "model.pt", "--data", folder / "permuted")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--path", "/nowhere.pt"),
            ("cannot load /nowhere.pt", "there is no file or folder /nowhere.pt"),
        ),
        (("--path", "{0}/model.pt", "/nowhere"), ("there is no file /nowhere",)),
        (("--path", "{0}/model.pt", "{0}"), ("there is no file",)),
        (("--path", "{0}/model.pt", "--data", "/nowhere"), ("no file or folder /nowhere",)),
        (("--path", "{0}/model.pt", "--bpe-codes", "/nowhere"), ("--bpe-codes", "/nowhere")),
        (("--path", "{0}/model.pt", "--no-dash-splits"), ("no effect without --tokenizer",)),
        (("--path", "{0}/model.pt", "--lenpen", "nan"), ("--lenpen needs a finite number", "nan")),
        (("--path", "{0}/model.pt", "--lenpen", "-1"), ("--lenpen needs a finite number", "-1")),
        (("--path", "{0}/model.pt", "--device", "toaster"), ("--device toaster",)),
        (truncate_checkpoint, ("truncated.pt is damaged (truncated or overwritten)",)),
        (permute_dictionary, ("another dictionary", "its 40 entries are other symbols")),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: tuple[str, ...] | Callable[[Path], tuple[object, ...]],
    words: tuple[str, ...],
    command: Callable[..., Any],
    released: Path,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(released, tmp_path / "released")
    if callable(arguments):
        arguments = arguments(folder)
    with pytest.raises(SystemExit) as end:
        command(*(str(argument).format(folder) for argument in arguments))
    assert end.value.code == 2
    sentence = command.stderr.splitlines()[-1]
    assert sentence.startswith("error: ")
    assert all(word in sentence for word in words), sentence


def test_a_pipe_gets_translations_only_and_may_be_closed_early(
    released: Path,
) -> None:
    process = subprocess.Popen(
        [
            *build_command("translation/translate.py", "--path", released / "model.pt"),
            *("--device", "cpu", "--buffer-size", "2"),
        ],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(b"\xff\nw1\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"\n"  # while the input is still open
    assert process.stdout.readline().startswith(b"w")
    process.stdout.close()
    _, notes = process.communicate(b"w2\nw3\n" * 9)
    assert b"line 1 is not valid UTF-8 (byte 1)" in notes
    assert b"Traceback" not in notes and b"it/s" not in notes
    assert process.returncode == 1
