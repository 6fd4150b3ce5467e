"""scripts/benchmarks/columns.py: its counts on small columns, and how the ways to train compare."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks import columns as benchmark

Measure = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Measure:
    """``measure(benchmark, *options)`` runs a benchmark on the CPU and returns its rows.

    It checks that the rows are printed as a table and drawn, too.
    """

    def measured(what: str, *options: object) -> list[dict[str, Any]]:
        files = ("--json", tmp_path / "rows.json", "--figure", tmp_path / "figure.png")
        arguments = map(str, (what, *options, *files, "--device", "cpu"))
        monkeypatch.setattr(sys, "argv", ["benchmarks/columns.py", *arguments])
        benchmark.main()
        rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
        table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
        assert len(table) == len(rows) + 1
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        return rows

    return measured


def test_reversible_memory_does_not_grow_and_beats_every_alternative(measure: Measure) -> None:
    rows = measure("memory", "--columns", 4, 16, "--tokens", 256)
    found = {(row["columns"], row["way"]): row for row in rows}
    ours, least = "reversible", "reversible, keep_columns=0"
    for way in (ours, least):
        for what in ("held", "peak"):
            assert found[4, way][what] == found[16, way][what], "grows with the columns"
    peaks = {key: row["peak"] for key, row in found.items()}
    assert peaks[4, ours] <= peaks[4, "plain"] / 3
    assert peaks[16, ours] <= peaks[16, "plain"] / 10
    for way in ("plain", "checkpoint per column", "checkpoint per level"):
        assert peaks[16, least] < peaks[16, way]
    # Rebuilding a column costs a third of its two passes, and the last column is kept.
    assert found[4, ours]["flops"] <= 1.25 * found[4, "plain"]["flops"]
    for columns in (4, 16):
        again = found[columns, "checkpoint per column"]["flops"]
        assert found[columns, ours]["flops"] < again == found[columns, least]["flops"]


def test_all_ways_are_timed(measure: Measure) -> None:
    rows = measure("speed", "--columns", 2, "--tokens", 32, "--repeats", 1)
    assert [row["ratio"] for row in rows if row["way"] == "plain"] == [1]
    assert len(rows) == 6 and all(row["seconds"] > 0 for row in rows)


def test_time_is_split_into_parts_of_a_plain_step(measure: Measure) -> None:
    rows = measure("profile", "--columns", 2, "--tokens", 32, "--repeats", 1)
    for row in rows:
        parts = [row[kind] for kind in ("matrix products", "attention", "random numbers")]
        assert min(parts) > 0 and sum(parts) + row["the rest"] == pytest.approx(row["all"])
        assert row["compiled kernels"] == 0
    assert [row["all"] for row in rows if row["way"] == "plain"] == pytest.approx([1])


def test_naive_inversion_is_wrong_and_ours_is_exact(measure: Measure) -> None:
    for row in measure("exactness", "--columns", 8, "--tokens", 64):
        for compute in ("float32", "bf16", "fp16"):
            assert row[f"ours, {compute}"] <= 1e-6
            assert row[f"naive, {compute}"] > 1e-3


def test_normalised_attention_holds_no_more_than_fairseqs(measure: Measure) -> None:
    rows = measure("attention", "--dim", 64, "--tokens", 1024, "--repeats", 1)
    found = {(row["length"], row["way"]): row for row in rows}
    assert len(found) == 8
    for length in (32, 128, 512):
        ours, theirs = found[length, "normalised"], found[length, "fairseq"]
        assert ours["peak"] <= 1.1 * theirs["peak"]
        assert ours["bf16 error"] < 2 * theirs["bf16 error"]


def test_options_without_effect_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, sentence in {
        ("memory", "--compile"): "--compile has an effect on `speed` and `profile` only",
        ("memory", "--tokens", "5"): "--tokens must be at least 32",
    }.items():
        monkeypatch.setattr(sys, "argv", ["benchmarks/columns.py", *options])
        with pytest.raises(SystemExit) as end:
            benchmark.main()
        assert end.value.code == 2 and sentence in capsys.readouterr().err
