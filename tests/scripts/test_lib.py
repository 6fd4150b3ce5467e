"""scripts/lib: tables, and the files of a corpus."""

import gzip
import struct
from pathlib import Path

import pytest

from scripts.lib.command_line import BadInput
from scripts.lib.corpus_files import count_binarised_sentences, read_lines, write_lines
from scripts.lib.tables import format_table


def test_a_table_is_markdown_and_lines_up() -> None:
    rows = [("RevCol", 35.65, "1"), ("big", "none", 1000)]
    assert format_table(("model", "BLEU", ""), rows).split("\n") == [
        "| model  |  BLEU |      |",
        "|:-------|------:|-----:|",
        "| RevCol | 35.65 |    1 |",
        "| big    |  none | 1000 |",
    ]


def test_a_table_without_rows_has_a_header() -> None:
    assert format_table(("a", "b"), []) == "| a | b |\n|:--|--:|"


def test_a_row_with_too_few_cells_is_an_error() -> None:
    with pytest.raises(ValueError):
        format_table(("a", "b"), [("1",)])


def test_lines_end_at_line_feeds_only_and_survive_writing(tmp_path: Path) -> None:
    lines = ["a\u2028b", "", "c\r", "\x85d\x0c"]
    write_lines(tmp_path / "text", lines)
    assert read_lines(tmp_path / "text") == lines
    (tmp_path / "text.gz").write_bytes(gzip.compress((tmp_path / "text").read_bytes()))
    assert read_lines(tmp_path / "text.gz") == lines
    assert {path.name for path in tmp_path.iterdir()} == {"text", "text.gz"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "text", ["old"])
    with pytest.raises(UnicodeEncodeError):
        write_lines(tmp_path / "text", ["new", "\udc80"])
    assert read_lines(tmp_path / "text") == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("text", b"caf\xe9", "is not valid UTF-8"),
        ("text.gz", b"no gzip", "cannot read"),
        ("text.gz", gzip.compress(b"line\n" * 99, mtime=0)[:-9], "cannot read"),
        ("text.gz", gzip.compress(b"line\n" * 99, mtime=0)[:9] + b"\xff" * 9, "cannot read"),
    ],
)
def test_unreadable_text_is_refused(name: str, data: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=sentence):
        read_lines(tmp_path / name)
    with pytest.raises(BadInput, match="No such file"):
        read_lines(tmp_path / "nowhere")


def test_only_a_complete_header_of_fairseqs_format_is_an_index(tmp_path: Path) -> None:
    path = tmp_path / "test.en-de.en.idx"
    header = struct.Struct("<9sQBQ")
    path.write_bytes(header.pack(b"MMIDIDX\x00\x00", 1, 8, 3))
    assert count_binarised_sentences(path) == 3
    for wrong in (
        header.pack(b"MMIDIDX\x00\x01", 1, 8, 3),
        header.pack(b"MMIDIDX!!", 1, 8, 3),
        header.pack(b"MMIDIDX\x00\x00", 2, 8, 3),
        header.pack(b"MMIDIDX\x00\x00", 1, 8, 3)[:-1],
        b"",
    ):
        path.write_bytes(wrong)
        with pytest.raises(BadInput, match="not an index that fairseq-preprocess wrote"):
            count_binarised_sentences(path)
