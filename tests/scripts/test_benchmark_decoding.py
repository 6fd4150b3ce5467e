"""scripts/benchmarks/decoding.py: its table, with very small models."""

import gzip
import re
import sys
from pathlib import Path

import pytest

from scripts.benchmarks import decoding as benchmark


def test_the_table_compares_models_with_the_same_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("\none two three\n\nfour\nfive six\n")
    arguments = ("--arch", "revcol_transformer_tiny", "--layers", "8", "1", "--vocabulary", "9712")
    arguments += ("--beside", "transformer_iwslt_de_en", "--lines", "2", "--length", "3")
    arguments += ("--repeats", "1", "--device", "cpu", "--input", str(tmp_path / "text"))
    monkeypatch.setattr(sys, "argv", ["benchmarks/decoding.py", *arguments])
    benchmark.main()
    printed = capsys.readouterr().out
    assert (
        "2 sentences, 8 generated tokens, beam 4\n" in printed
    )  # three words and an end of sentence each
    rows = re.findall(r"^\| (\S.*?) +\| +([\d.]+)M \| +([\d.]+) \| +([\d.]+) \|$", printed, re.M)
    assert [(name, millions) for name, millions, _, _ in rows] == [
        ("revcol_transformer_tiny", "2.5"),
        ("transformer, 8 encoder layers", "2.5"),
        ("transformer, 1 encoder layers", "1.8"),
        ("transformer_iwslt_de_en", "36.5"),
    ]
    assert rows[0][3] == "1.00"


def test_an_input_without_sentences_or_damaged_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("\n\n")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"one two\n")[:-9])
    for name, sentence in {
        "text": "has no sentences",
        "none": "No such file",
        "text.gz": "cannot read",
    }.items():
        path = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["benchmarks/decoding.py", "--input", str(path)])
        with pytest.raises(SystemExit) as end:
            benchmark.main()
        assert end.value.code == 2
        refusal = capsys.readouterr().err
        assert refusal.startswith("error: ") and refusal.count("\n") == 1
        assert sentence in refusal and str(path) in refusal
