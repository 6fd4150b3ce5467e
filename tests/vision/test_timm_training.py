"""timm's own training script trains RevCol-ViT.

The script is not in timm's wheel: the tests run where the environment variable ``REVCOL_TIMM``
names a checkout of timm.
"""

import argparse
import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import vision  # noqa: F401 (registers the models)

SCRIPT = Path(os.environ.get("REVCOL_TIMM") or os.devnull, "train.py").absolute()
pytestmark = pytest.mark.skipif(
    not SCRIPT.is_file(), reason="REVCOL_TIMM names no checkout of timm"
)

OPTIONS = (
    *("--device-modules", "vision", "--model", "test_revcol_vit", "--num-classes", "2"),
    *("--device", "cpu", "--workers", "0", "--batch-size", "4", "--epochs", "1"),
    *("--warmup-epochs", "0", "--opt", "adamw", "--lr", "1e-3", "--layer-decay", "0.8"),
    *("--model-ema", "--mixup", "0.2"),
)


@pytest.fixture
def images(tmp_path):
    """Noise, 8 images of each of two classes in either split."""
    random = np.random.default_rng(0)
    for split in ("train", "validation"):
        for name in "ab":
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(8):
                pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "images"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--model-kwargs", "num_columns=4", "keep_columns=0"], id="reversible"),
        # Made to keep everything, so that it is the option that makes it reversible.
        pytest.param(
            ["--grad-checkpointing", "--model-kwargs", "num_columns=4", "reversible=False"],
            id="grad-checkpointing",
        ),
    ],
)
def test_timms_script_trains(images, tmp_path, options):
    command = [sys.executable, SCRIPT, images, *OPTIONS, *options]
    done = subprocess.run(
        [*command, "--output", tmp_path, "--experiment", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with (tmp_path / "run" / "summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert math.isfinite(float(row["train_loss"]))
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(tmp_path / "run" / "last.pth.tar", weights_only=True)
    model = timm.create_model("test_revcol_vit", num_classes=2, num_columns=4)
    trained, average = checkpoint["state_dict"], checkpoint["state_dict_ema"]
    for weights in (average, trained):
        model.load_state_dict(weights, strict=True)
    # The average starts as the first weights and lags behind.
    assert not any(
        torch.equal(trained[name], average[name]) for name, _ in model.named_parameters()
    )
