"""timm's functions for training take RevCol-ViT, called as timm's own train.py calls them.

The script itself is not in timm's packages. The last test runs it where the environment variable
``REVCOL_TIMM`` names a checkout of timm.
"""

import argparse
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import Mixup, resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from timm.models import load_checkpoint, resume_checkpoint, safe_model_name
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.task import ClassificationTask
from timm.utils import CheckpointSaver, ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

import vision  # noqa: F401 (registers the models)
from revcol_nlp.columns.verify import compare_gradients

UPDATES = 3
SCRIPT = Path(os.environ.get("REVCOL_TIMM") or os.devnull, "train.py").absolute()


def make_options(**options: Any) -> argparse.Namespace:
    """Options of timm's train.py that the functions below read."""
    defaults = dict(
        model="test_revcol_vit",
        num_classes=4,
        drop=0.1,
        drop_path=0.1,
        model_kwargs={},
        grad_checkpointing=False,
        channels_last=False,
        opt="adamw",
        lr=1e-3,
        weight_decay=0.05,
        momentum=0.9,
        layer_decay=0.8,
        sched="cosine",
        epochs=2,
        warmup_epochs=1,
        sched_on_updates=True,
    )
    return argparse.Namespace(**(defaults | options))


def create_model(args: argparse.Namespace) -> nn.Module:
    """The model as train.py makes it: options that are not given are None there."""
    model = timm.create_model(
        args.model,
        pretrained=False,
        in_chans=3,
        num_classes=args.num_classes,
        drop_rate=args.drop,
        drop_path_rate=args.drop_path,
        drop_block_rate=None,
        global_pool=None,
        bn_momentum=None,
        bn_eps=None,
        scriptable=False,
        checkpoint_path="",
        **args.model_kwargs,
    )
    if args.grad_checkpointing:
        model.set_grad_checkpointing(enable=True)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    return model


def make_batch(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Images and soft targets of an update, with mixup."""
    x = torch.randn(4, 3, 64, 64)
    if args.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return Mixup(mixup_alpha=0.2, num_classes=args.num_classes)(x, torch.arange(4))


@dataclass
class Training:
    """What train.py holds between updates, and its loop."""

    args: argparse.Namespace

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = create_model(self.args)
        self.optimizer = create_optimizer_v2(self.model, **optimizer_kwargs(cfg=self.args))
        self.ema = ModelEmaV3(self.model, decay=0.9)
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer, **scheduler_kwargs(self.args), updates_per_epoch=UPDATES
        )

    def train_epoch(self, epoch: int) -> list[float]:
        """Losses of the updates of an epoch, which decides the images and the random numbers."""
        torch.manual_seed(epoch)
        np.random.seed(epoch)
        task = ClassificationTask(self.model, SoftTargetCrossEntropy(), verbose=False)
        task.train()
        losses = []
        for update in range(epoch * UPDATES, (epoch + 1) * UPDATES):
            self.scheduler.step_update(num_updates=update)
            loss = task(*make_batch(self.args))["loss"]
            self.optimizer.zero_grad()
            loss.backward()
            dispatch_clip_grad(task.get_clip_parameters(), value=1.0, mode="norm")
            self.optimizer.step()
            self.ema.update(self.model, step=update)
            losses.append(loss.item())
        return losses


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"model_kwargs": {"num_columns": 4, "keep_columns": 0}}, id="model-kwargs"),
        pytest.param({"channels_last": True}, id="channels-last"),
        # Made to keep everything, so that it is the option that makes it reversible.
        pytest.param(
            {"grad_checkpointing": True, "model_kwargs": {"reversible": False}},
            id="grad-checkpointing",
        ),
    ],
)
def test_a_run_trains_and_resumes_from_its_checkpoint(tmp_path, options):
    args = make_options(**options)
    whole = Training(args)
    assert whole.model.revcol.reversible
    saver = CheckpointSaver(
        whole.model, whole.optimizer, args, whole.ema, checkpoint_dir=str(tmp_path)
    )
    losses = whole.train_epoch(0)
    saver.save_checkpoint(epoch=0, metric=50.0)
    losses += whole.train_epoch(1)
    assert all(map(math.isfinite, losses))

    resumed = Training(args)
    file = str(tmp_path / "last.pth.tar")
    assert resume_checkpoint(resumed.model, file, optimizer=resumed.optimizer) == 1
    load_checkpoint(resumed.ema.module, file, use_ema=True)
    assert resumed.train_epoch(1) == pytest.approx(losses[UPDATES:], rel=1e-6)
    for ours, theirs in ((whole.model, resumed.model), (whole.ema.module, resumed.ema.module)):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_the_average_lags_behind_the_weights_and_both_load_from_a_checkpoint(tmp_path):
    args = make_options()
    training = Training(args)
    training.train_epoch(0)
    training.train_epoch(1)
    saver = CheckpointSaver(
        training.model, training.optimizer, args, training.ema, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(epoch=1, metric=50.0)
    trained, average = create_model(args), create_model(args)
    load_checkpoint(trained, str(tmp_path / "model_best.pth.tar"), use_ema=False)
    load_checkpoint(average, str(tmp_path / "model_best.pth.tar"), use_ema=True)
    for (name, p), mean in zip(trained.named_parameters(), average.parameters(), strict=True):
        assert torch.equal(p, training.model.get_parameter(name))
        assert not torch.equal(p, mean), name


def test_layer_decay_reaches_the_learning_rates():
    training = Training(make_options(warmup_epochs=0))
    training.scheduler.step_update(num_updates=0)
    rates = {id(p): g["lr"] for g in training.optimizer.param_groups for p in g["params"]}
    model = training.model
    assert rates[id(model.head.weight)] == pytest.approx(1e-3)
    top = [rates[id(column.levels[3].gamma)] for column in model.revcol.columns[1:]]
    assert top == pytest.approx([1e-3 * 0.8**5, 1e-3 * 0.8])
    assert rates[id(model.pos_embed)] == pytest.approx(1e-3 * 0.8**13)


def test_the_experiments_name_and_the_data_come_from_the_model():
    assert safe_model_name("revcol_vit_small_patch16_224") == "revcol_vit_small_patch16_224"
    config = resolve_data_config({}, model=timm.create_model("revcol_vit_pico_patch4_32"))
    assert config["input_size"] == (3, 32, 32)
    assert config["crop_pct"] == 1.0


def compute_gradients(backend: str | None) -> dict[str, Tensor]:
    """Gradients of an update, after ``--torchcompile BACKEND`` if there is one."""
    torch.manual_seed(0)
    args = make_options(drop=0.0, drop_path=0.0, model_kwargs={"num_columns": 2})
    task = ClassificationTask(create_model(args), verbose=False).train()
    task.setup_ema(decay=0.9)
    if backend:
        task.compile(backend=backend)
        task.compile_ema(backend=backend)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    task(x, torch.arange(4))["loss"].backward()
    task.update_ema(step=1)
    model = task.get_trainable_module()
    return {n.removeprefix("_orig_mod."): p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_compiled_model_trains_with_the_same_gradients(backend):
    found = compare_gradients(compute_gradients(backend), compute_gradients(None))
    assert max(found.values()) <= 1e-4


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
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


@pytest.mark.skipif(not SCRIPT.is_file(), reason="REVCOL_TIMM names no checkout of timm")
def test_timms_script_trains(image_folder: Path, tmp_path: Path) -> None:
    options = (
        *("--device-modules", "vision", "--model", "test_revcol_vit", "--num-classes", "2"),
        *("--device", "cpu", "--workers", "0", "--batch-size", "4", "--epochs", "1"),
        *("--warmup-epochs", "0", "--opt", "adamw", "--lr", "1e-3", "--layer-decay", "0.8"),
        *("--model-ema", "--mixup", "0.2", "--model-kwargs", "num_columns=4", "keep_columns=0"),
    )
    done = subprocess.run(
        [sys.executable, SCRIPT, image_folder, *options, "--output", tmp_path, "--experiment", "a"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    model = timm.create_model("test_revcol_vit", num_classes=2, num_columns=4)
    for use_ema in (True, False):
        load_checkpoint(model, str(tmp_path / "a" / "last.pth.tar"), use_ema=use_ema)
