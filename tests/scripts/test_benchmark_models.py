"""scripts/benchmarks/models.py: its counts, with very small models."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from revcol_nlp.columns import verify
from scripts.benchmarks import models as benchmark
from scripts.benchmarks.live_bytes import LiveBytes
from tests.helpers.columns import build, loss_of, stem_output

Rows = dict[tuple[str, ...], dict[str, Any]]


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_live_bytes_before_the_backward_pass_are_those_that_autograd_holds(
    reversible: bool, autocast: bool
) -> None:
    model = build(4, revcol={"reversible": reversible}, dropout=0.1).train()
    stem = stem_output().requires_grad_()

    def step() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return loss_of(model(stem))

    counted = []
    for compute in (True, False):
        model.zero_grad()
        stem.grad = None
        with LiveBytes("forward", compute=compute) as counter:
            loss = step()
            held = counter.live["forward"]
            counter.part = "backward"
            loss.backward()
        counted.append((held, counter.peak))
        del loss
        gradients = sum(p.numel() * p.element_size() for p in [*model.parameters(), stem])
        assert counter.live == {"forward": 0, "backward": gradients}
    assert counted[0] == counted[1]
    assert (
        counted[0][0] == verify.count_held_bytes(step, [*model.parameters(), stem]) + 4
    )  # the loss
    assert counted[0][1].total() > counted[0][0]


def test_live_bytes_count_shared_memory_once_and_leave_out_earlier_tensors() -> None:
    before = torch.ones(100)
    with LiveBytes() as counter:
        before.mul_(2)
        copy = before.clone()
        part = copy.view(10, 10)[3]
        del copy
        assert counter.live.total() == 400  # `part` keeps all of it
        del part
        assert counter.live.total() == 0
    assert counter.peak == {"all": 400}


def run_benchmark(monkeypatch: pytest.MonkeyPatch, folder: Path, *args: object) -> Rows:
    """Run the benchmark, check that it draws a picture, and return its rows by their labels."""
    options = ("--repeats", 1, "--device", "cpu", "--json", folder / "rows.json")
    options += ("--figure", folder / "figure.png")
    monkeypatch.setattr(sys, "argv", ["benchmarks/models.py", *map(str, (*args, *options))])
    benchmark.main()
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "rows.json").read_text())["rows"]
    return {tuple(row["labels"].values()): row for row in found}


def sum_held(row: dict[str, Any], part: str | None = None) -> int:
    """Return the bytes that a row holds, in all or in one part of the model."""
    return row["held"][part] if part else sum(row["held"].values())


def test_options_that_save_memory_save_it_in_the_translation_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, word in {"source": "a", "target": "b"}.items():
        lines = [" ".join(f"{word}{n % 7}" for n in range(2 + i % 9)) + "\n" for i in range(200)]
        (tmp_path / name).write_text("".join(lines))
    arch, beside = "revcol_transformer_tiny", "transformer_tiny"
    found = run_benchmark(
        *(monkeypatch, tmp_path, "translation", "--arch", arch, "--beside", beside),
        *("--source", tmp_path / "source", "--target", tmp_path / "target"),
        *("--vocabulary", 1000, "--max-tokens", 32, "--counted", 256, "--chunk-tokens", 64),
        *("--precision", "bf16"),
    )
    assert len(found) == 4 + 12
    assert capsys.readouterr().out.count("\n| ") == 1 + len(found)

    def row(*labels: str) -> dict[str, Any]:
        return found[(*labels, "bf16")]

    first = row(beside, "plain", "kept", "ordinary")
    assert first["speed_ratio"] == first["batch_ratio"] == 1
    ordinary = row(arch, "reversible", "kept", "ordinary")
    # A batch has four chunks, of which only one has its logits in memory.
    chunked = row(arch, "reversible", "kept", "chunked")
    assert sum_held(chunked, "logits") < 0.5 * sum_held(ordinary, "logits")
    assert sum(chunked["peak"].values()) < sum(ordinary["peak"].values())
    # The model has two columns, one of which is kept.
    plain = row(arch, "plain", "kept", "ordinary")
    assert sum_held(ordinary, "encoder") < 0.7 * sum_held(plain, "encoder")
    none_kept = row(arch, "none kept", "kept", "ordinary")
    assert sum_held(none_kept, "encoder") < 0.6 * sum_held(ordinary, "encoder")
    assert sum_held(ordinary, "decoder") == pytest.approx(sum_held(plain, "decoder"), rel=1e-3)
    # --checkpoint-activations acts on the decoder only.
    checkpointed = row(arch, "reversible", "checkpointed", "ordinary")
    assert sum_held(checkpointed, "decoder") < 0.2 * sum_held(ordinary, "decoder")
    assert sum_held(checkpointed, "encoder") < 1.05 * sum_held(ordinary, "encoder")
    # Saved memory costs recomputation.
    best = row(arch, "none kept", "checkpointed", "chunked")
    sizes = [r["largest_batch"] for r in (plain, ordinary, checkpointed, best)]
    assert sizes == sorted(sizes)
    flops = [r["gflops"] for r in (plain, ordinary, checkpointed, best)]
    assert flops == sorted(flops)
    assert flops[-1] < 4 / 3 * flops[0]


def test_reversible_and_checkpointed_vision_models_hold_less_and_compute_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_benchmark(
        *(monkeypatch, tmp_path, "vision", "--image-size", 64, "--batch-size", 1),
        *("--models", "test_vit", "test_revcol_vit", "--counted", 4),
    )
    assert [labels[:2] for labels in found] == [
        ("test_vit", "plain"),
        ("test_vit", "checkpointing"),
        ("test_revcol_vit", "reversible"),
        ("test_revcol_vit", "checkpointing"),
        ("test_revcol_vit", "plain"),
    ]
    _, _, reversible, checkpointed, plain = found.values()
    assert sum_held(checkpointed) < sum_held(reversible) < sum_held(plain)
    assert plain["gflops"] < reversible["gflops"] < checkpointed["gflops"] < 4 / 3 * plain["gflops"]


def test_files_that_are_not_there_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["benchmarks/models.py", "translation", "--source", "none", "--target", "none"]
    )
    with pytest.raises(SystemExit) as end:
        benchmark.main()
    assert end.value.code == 2
    assert "there is no file none" in capsys.readouterr().err
