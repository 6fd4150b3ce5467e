"""scripts/benchmarks/decoding.py: the table of the README, on a very small model."""

import re
import sys
from pathlib import Path

import pytest

from scripts.benchmarks import decoding as benchmark


def test_the_table_compares_models_of_one_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("\none two three\n\nfour\nfive six\n")
    arguments = ("--arch", "revcol_transformer_tiny", "--layers", "8", "1", "--vocabulary", "9712")
    arguments += ("--beside", "transformer_iwslt_de_en", "--lines", "2", "--length", "3")
    arguments += ("--repeats", "1", "--device", "cpu", "--input", str(tmp_path / "text"))
    monkeypatch.setattr(sys, "argv", ["benchmarks/decoding.py", *arguments])
    benchmark.main()
    printed = capsys.readouterr().out
    assert "2 sentences, 8 tokens out, beam 4\n" in printed  # three words and an end each
    rows = re.findall(r"^\| (.+) \| ([\d.]+)M \| ([\d.]+) \| ([\d.]+) \|$", printed, re.M)
    assert [(name, millions) for name, millions, _, _ in rows] == [
        ("revcol_transformer_tiny", "2.5"),
        ("transformer, 8 encoder layers", "2.5"),
        ("transformer, 1 encoder layers", "1.8"),
        ("transformer_iwslt_de_en", "36.5"),
    ]
    assert rows[0][3] == "1.00"


def test_an_input_without_sentences_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("\n\n")
    for path in (tmp_path / "text", tmp_path / "none"):
        monkeypatch.setattr(sys, "argv", ["benchmarks/decoding.py", "--input", str(path)])
        with pytest.raises(SystemExit) as end:
            benchmark.main()
        assert end.value.code == 2
        assert f"names no file with a sentence: {path}" in capsys.readouterr().err
