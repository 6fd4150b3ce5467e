"""Generated bad options and checkpoints of vision: refused in a sentence, or harmless."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from tests.helpers.bad_input import (
    CONTENT_DAMAGES,
    FILE_DAMAGES,
    VALUES,
    Refusal,
    damaged,
    examples,
    outcome,
    try_all,
    with_damaged_content,
)
from tests.helpers.images import TINY, make_images, status, train
from vision.training.checkpoints import read_checkpoint
from vision.training.options import parse_training

VISION_OPTIONS = (
    *("--epochs", "--batch-size", "--lr", "--drop", "--mixup", "--img-size", "--seed", "--opt"),
    *("--clip-grad", "--sched", "--model", "--scale", "--weight-decay", "--subset", "--workers"),
    *("--smoothing", "--recipe", "--amp-dtype", "--model-kwargs", "--mean", "--ratio"),
)


@examples(few=10, many=60)
def test_options_of_vision(number: int) -> None:
    def check(option: str, values: list[str]) -> None:
        command = ["DATA", *map(str, TINY)]
        before = parse_training(command).values
        found = outcome(lambda: parse_training([*command, option, *values]).values)
        if isinstance(found, Refusal):
            assert option.strip("-")[:3] in found or "unrecognized arguments" in found
            return
        name = option.strip("-").replace("-", "_")
        assert found | {name: None, "output": None} == before | {name: None, "output": None}
        value = found[name]
        assert not isinstance(value, float) or math.isfinite(value)

    values = st.lists(st.sampled_from(VALUES), min_size=0, max_size=2)
    try_all(number, check, option=st.sampled_from(VISION_OPTIONS), values=values)


@examples(few=8, many=40)
def test_checkpoints_of_vision(tmp_path: Path, number: int) -> None:
    train(
        make_images(tmp_path / "images", 4, 1), *TINY, "--epochs", 1, "--output", tmp_path / "run"
    )
    original, bad = tmp_path / "run" / "last.pth.tar", tmp_path / "bad.pth.tar"
    executed, results = tmp_path / "executed", tmp_path / "results.json"
    command = (tmp_path / "images", "--workers", 0, "--device", "cpu", "--results", results)

    def validate(path: Path) -> dict[str, Any]:
        assert status("validate", *command, "--checkpoint", path) == 0
        return json.loads(results.read_text()) | {"checkpoint": None}

    def attempt() -> tuple[int, str]:
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            return status("validate", *command, "--checkpoint", bad), errors.getvalue()

    right = validate(original)

    def check(damage: tuple[bool, tuple]) -> None:
        in_content, how = damage
        if in_content:
            state = with_damaged_content(read_checkpoint(original), "state_dict", how, executed)
            torch.save(state, bad)
        else:
            bad.write_bytes(damaged(original.read_bytes(), how))
        found, error = outcome(attempt)
        if found == 0:
            assert json.loads(results.read_text()) | {"checkpoint": None} == right
        else:
            assert found == 2 and error.startswith(f"error: {bad} "), error
        assert not executed.exists()

    content = st.tuples(st.just(True), CONTENT_DAMAGES)
    try_all(number, check, damage=content | st.tuples(st.just(False), FILE_DAMAGES))
