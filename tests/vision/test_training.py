"""Training: the computation of an update, several processes, and the files of a run."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.overrides import TorchFunctionMode

from tests.helpers.images import (
    EVERYTHING,
    TINY,
    assert_same_run,
    build,
    make_images,
    pack,
    rows,
    sentence,
    status,
    train,
)
from vision.training.checkpoints import read_checkpoint
from vision.training.trainer import Trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def assert_close_rows(folder: Path, other: Path) -> None:
    for ours, theirs in zip(rows(folder), rows(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_accumulated_microbatches_are_one_batch(data, tmp_path):
    command = (data, *TINY, "--opt", "sgd", "--clip-grad", 1, "--reprob", 0.5)
    train(*command, "--output", tmp_path / "joint")
    train(*command, "--output", tmp_path / "parts", "--micro-batch-size", 2)
    assert_close_rows(tmp_path / "joint", tmp_path / "parts")
    weights = [
        read_checkpoint(tmp_path / f"{name}/last.pth.tar")["state_dict"]
        for name in ("joint", "parts")
    ]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_two_processes_train_as_one_does(data, tmp_path):
    """With dropout, mixing and averaging too; and one process resumes what two began."""
    images = make_images(tmp_path / "images")
    (images / "train/cat/3.jpg").write_text("no image")
    (images / "val/cat/3.jpg").write_text("no image")
    command = (images, *TINY, *EVERYTHING, "--micro-batch-size", 4)
    two = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", "-m", "vision.train"),
            *map(str, (*command, "--output", tmp_path / "two")),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("best checkpoint") == 1, "only one process reports"
    train(*command, "--output", tmp_path / "one")
    assert_close_rows(tmp_path / "two", tmp_path / "one")
    last = rows(tmp_path / "two")[-1]
    assert last["eval_images"] == 14 and last["unreadable"] == last["eval_unreadable"] == 1
    train(*command, "--output", tmp_path / "two")


def test_the_script_can_be_run_by_its_path(data, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "vision/train.py", *map(str, (data, *TINY, "--epochs", 0))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr == "error: argument --epochs: expected a whole number from 1, got '0'\n"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains_and_resumes(dtype, data, tmp_path, monkeypatch):
    command = (data, *TINY, "--amp-dtype", dtype, "--clip-grad", 1, "--checkpoint-interval", 1)
    train(*command, "--output", tmp_path / "whole")
    assert rows(tmp_path / "whole")[-1]["train_loss"] < 1.2
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish_epoch", lambda trainer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(*command, "--output", tmp_path / "parts")
    train(*command, "--output", tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    train(data, *TINY, "--clip-grad", 1, "--output", tmp_path / "float32")
    weights = [
        read_checkpoint(tmp_path / f"{name}/last.pth.tar")["state_dict"]
        for name in ("whole", "float32")
    ]
    assert not torch.equal(*(state["head.weight"] for state in weights))
    assert ("amp_scaler" in read_checkpoint(tmp_path / "whole/last.pth.tar")) == (
        dtype == "float16"
    )


@pytest.mark.parametrize("amp", [(), ("--amp-dtype", "float16")])
def test_gradients_are_clipped(amp, data, tmp_path):
    command = (data, *TINY, "--opt", "sgd", "--lr", 1, "--weight-decay", 0, "--epochs", 1, *amp)
    fresh = build(*command, "--output", tmp_path / "none")
    before = {name: weight.clone() for name, weight in fresh.network.state_dict().items()}

    def largest_step(*options: object) -> float:
        train(*command, *options, "--output", tmp_path / "-".join(map(str, options)))
        after = read_checkpoint(tmp_path / "-".join(map(str, options)) / "last.pth.tar")[
            "state_dict"
        ]
        return max((after[name] - weight).abs().max().item() for name, weight in before.items())

    assert largest_step("--clip-grad", 1e-6) < 1e-4
    assert 1e-4 < largest_step("--clip-grad", 1e-3, "--clip-mode", "value") < 0.2
    assert largest_step("--clip-grad", 1e6) > 0.2


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_checkpoint(data, tmp_path, capsys):
    command = (data, *TINY, "--opt", "sgd", "--sched", "constant", "--lr", 1e30)
    command += ("--checkpoint-interval", 1, "--output", tmp_path)
    error = sentence(capsys, "train", *command)
    assert "the loss is nan at update " in error and " of epoch 1: a lower --lr" in error
    assert not list(tmp_path.glob("last*"))
    for path in tmp_path.glob("*.pth.tar"):
        assert all(
            weight.isfinite().all() for weight in read_checkpoint(path)["state_dict"].values()
        )


def test_a_loss_that_is_not_finite_ends_the_run_where_it_is_next_read(data, tmp_path, capsys):
    """Long before the next line of the log: at the end of the epoch, and names the update."""
    command = (data, *TINY, "--opt", "sgd", "--sched", "constant", "--lr", 1e30)
    error = sentence(capsys, "train", *command, "--log-interval", 1000, "--output", tmp_path)
    assert re.search("the loss is nan at update [23] of epoch 1: a lower --lr", error)
    assert not list(tmp_path.glob("*.pth.tar"))


class CountReads(TorchFunctionMode):
    """Counts the values that are read off tensors, for which a GPU would have to be waited for.

    Integers are left out: the CPU itself makes the indices of images.
    """

    READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.READS and args[0].dtype != torch.int64:
            self.count += 1
        return function(*args, **(kwargs or {}))


def test_an_update_reads_nothing_off_the_device(data, tmp_path):
    """The number of reads depends on epochs and lines of the log, not on the number of updates."""

    def count_reads(batch_size: int, log_interval: int) -> int:
        # AdamW keeps its count of steps on the CPU and reads that, so another optimizer is used.
        command = (data, *TINY, *EVERYTHING, "--opt", "sgd", "--batch-size", batch_size)
        output = tmp_path / f"{batch_size}-{log_interval}"
        intervals = ("--log-interval", log_interval, "--checkpoint-interval", 0)
        with CountReads() as reads:
            train(*command, *intervals, "--output", output)
        return reads.count

    in_15_updates, in_30_updates = count_reads(8, 1000), count_reads(4, 1000)
    assert in_15_updates == in_30_updates > 0
    assert count_reads(8, 1) > in_15_updates, "the test sees reads"


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path, capsys, monkeypatch):
    def spoil(trainer):
        with torch.no_grad():
            next(trainer.network.parameters()).fill_(float("nan"))
        return original(trainer)

    original = Trainer.save_epoch
    command = (data, *TINY, "--epochs", 1, "--output", tmp_path)
    monkeypatch.setattr(Trainer, "save_epoch", spoil)
    assert "weights are no longer finite" in sentence(capsys, "train", *command)
    assert not list(tmp_path.glob("*.pth.tar"))


def test_what_a_run_leaves_behind(data, tmp_path, capsys):
    train(data, *TINY, *EVERYTHING, "--checkpoint-hist", 2, "--output", tmp_path)
    table = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    report = json.loads((tmp_path / "report.json").read_text())
    shown = capsys.readouterr().out
    for value in report.values():
        assert str(round(value, 4) if isinstance(value, float) else value) in shown
    for name in ("best_checkpoint", "last_checkpoint", "summary", "curve"):
        assert Path(report[name]).is_file()
    rates = [float(row["lr"]) for row in table]
    assert rates[0] == pytest.approx(0.01) and rates[2] == pytest.approx(1e-6)
    state = read_checkpoint(report["last_checkpoint"])
    averaged, weights = (state[key]["head.weight"] for key in ("state_dict_ema", "state_dict"))
    fresh = build(data, *TINY, "--output", tmp_path / "x")
    way = [(state - fresh.network.head.weight).abs().max() for state in (averaged, weights)]
    assert 0 < way[0] < way[1], "averages lag behind"
    averages = [float(row["eval_top1_ema"]) for row in table]
    assert (
        report["best_top1_ema"]
        == max(averages)
        == read_checkpoint(report["best_checkpoint"])["metric"]
    )
    assert report["last_top1_ema"] == averages[-1]
    assert report["parameters"] == 17987 and report["epochs"] == 3
    assert 100 < report["peak_memory_mib"] < 5000 and report["images_per_second"] > 1
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2
    assert not list(tmp_path.glob("recovery*")) and not list(tmp_path.glob(".*"))
    assert len(list(tmp_path.glob("events.out.tfevents*"))) == 1
    assert yaml.safe_load((tmp_path / "args.yaml").read_text())["mixup"] == 0.8


def test_options_reach_what_timm_makes_of_them(data, tmp_path):
    options = (
        *("--drop", 0.3, "--drop-path", 0.2, "--smoothing", 0.2, "--model-ema"),
        *("--model-ema-decay", 0.75, "--opt-betas", 0.8, 0.9, "--opt-eps", 1e-4, "--seed", 5),
        *("--scale", 0.5, 0.6, "--ratio", 0.7, 1.4, "--hflip", 0.25, "--aa", "original"),
        *("--train-interpolation", "bilinear", "--reprob", 0.35, "--remode", "const"),
        *("--mean", 0.1, 0.2, 0.3, "--std", 0.4, 0.5, 0.6, "--crop-pct", 0.5),
    )
    run = build(data, *TINY, "--output", tmp_path, *options)
    modules = dict(run.network.named_modules())
    assert modules["head_drop"].p == 0.3
    assert modules["blocks.1.drop_path1"].drop_prob == pytest.approx(0.2)
    assert run.task.criterion.smoothing == 0.2
    assert run.task.get_trainable_module(ema=True).decay == 0.75
    group = run.optimisation.optimizer.param_groups[0]
    assert (*group["betas"], group["eps"]) == (0.8, 0.9, 1e-4)
    augmentation = str(run.loader.dataset.transform)
    for part in (
        "size=(32, 32), scale=(0.5, 0.6), ratio=(0.7, 1.4), interpolation=bilinear",
        "RandomHorizontalFlip(p=0.25)",
        "AutoAugment(",
        "mean=tensor([0.1000, 0.2000, 0.3000]), std=tensor([0.4000, 0.5000, 0.6000])",
        "RandomErasing(p=0.35, mode=const",
    ):
        assert part in augmentation, augmentation
    assert "Resize(size=64, interpolation=bicubic" in str(run.val_loader.dataset.transform)

    mixup = build(data, *TINY, "--output", tmp_path, "--mixup", 0.3, "--cutmix", 0.4).mixup
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.num_classes) == (0.3, 0.4, 3)
    jittered = build(data, *TINY, "--output", tmp_path, "--color-jitter", 0.3)
    augmentation = str(jittered.loader.dataset.transform)
    assert "ColorJitter(brightness=(0.7, 1.3)" in augmentation


def test_learning_rate_and_decay_follow_the_options(data, tmp_path):
    decay = ("--layer-decay", 0.5, "--warmup-epochs", 1)
    run = build(data, *TINY, *decay, "--output", tmp_path)
    scales = {group["lr_scale"] for group in run.optimisation.optimizer.param_groups}
    assert scales == {1.0, 0.5, 0.25, 0.125}
    assert {group["weight_decay"] for group in run.optimisation.optimizer.param_groups} == {
        0.0,
        0.05,
    }
    rates = []
    for number in range(1, 16):
        run.optimisation.scheduler.step_update(number)
        rates.append(run.optimisation.lr)
    assert rates[4] == max(rates) == pytest.approx(0.01), "the peak, after 1 epoch of 5 updates"
    assert rates[:5] == sorted(rates[:5]) and rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(1e-6)


def test_initial_weights(data, tmp_path, capsys):
    train(data, *TINY, "--epochs", 1, "--model-ema", "--output", tmp_path / "first")
    file = tmp_path / "first/last.pth.tar"
    state = read_checkpoint(file)

    def initial(*options: object) -> dict[str, torch.Tensor]:
        return build(data, *TINY, "--output", tmp_path / "none", *options).network.state_dict()

    weights = initial("--initial-checkpoint", file)
    torch.testing.assert_close(weights, state["state_dict_ema"], rtol=0, atol=0)
    scaled = initial("--initial-checkpoint", file, "--head-init-scale", 0.001)
    for name, weight in weights.items():
        factor = 0.001 if name.startswith("head.") else 1
        torch.testing.assert_close(scaled[name], weight * factor, rtol=1e-6, atol=0)

    same = initial("--pretrained-path", file)
    torch.testing.assert_close(same, weights, rtol=0, atol=0)
    larger = initial("--pretrained-path", file, "--num-classes", 5, "--img-size", 64)
    assert larger["head.weight"].shape == (5, 16) and larger["pos_embed"].shape == (1, 17, 16)
    torch.testing.assert_close(
        larger["blocks.0.mlp.fc1.weight"], weights["blocks.0.mlp.fc1.weight"]
    )

    options = (data, *TINY, "--output", tmp_path / "none")
    error = sentence(capsys, "train", *options, "--num-classes", 5, "--initial-checkpoint", file)
    assert "has 3 classes and the model 5: use --pretrained-path, which replaces" in error
    error = sentence(
        capsys, "train", *options, "--model", "test_vit2", "--initial-checkpoint", file
    )
    assert "does not fit test_vit2" in error
    (tmp_path / "none.pth").write_text("no weights")
    for option in ("--initial-checkpoint", "--pretrained-path"):
        error = sentence(capsys, "train", *options, option, tmp_path / "none.pth")
        assert "holds no weights that can be read" in error
        assert "there is no checkpoint" in sentence(
            capsys, "train", *options, option, tmp_path / "x"
        )


def test_validation_finds_what_training_reported(data, tmp_path, capsys):
    train(data, *TINY, *EVERYTHING, "--output", tmp_path)
    last = rows(tmp_path)[-1]
    archive = pack(data, tmp_path / "data.zip")
    for suffix, option in (("", ()), ("_ema", ("--ema",))):
        command = (
            archive,
            "--checkpoint",
            tmp_path / "last.pth.tar",
            "--device",
            "cpu",
            "--workers",
            1,
        )
        results = tmp_path / "results.json"
        assert status("validate", *command, *option, "--batch-size", 7, "--results", results) == 0
        found = json.loads(results.read_text())
        for name in ("loss", "top1", "top5", "images", "unreadable"):
            assert found[name] == pytest.approx(last[f"eval_{name}{suffix}"], rel=1e-5)


def test_what_cannot_be_validated_is_refused_in_a_sentence(data, tmp_path, capsys):
    train(data, *TINY, "--epochs", 1, "--output", tmp_path)
    file = tmp_path / "last.pth.tar"
    assert "trained without --model-ema" in sentence(
        capsys, "validate", data, "--checkpoint", file, "--ema"
    )
    (tmp_path / "torn").write_bytes(file.read_bytes()[:5000])
    for name, expected in (
        ("torn", "is damaged, or is not a checkpoint"),
        ("x", "there is no checkpoint"),
    ):
        error = sentence(capsys, "validate", data, "--checkpoint", tmp_path / name)
        assert expected in error
    torch.save({"state_dict": {}}, tmp_path / "torn")
    assert "is not a checkpoint" in sentence(
        capsys, "validate", data, "--checkpoint", tmp_path / "torn"
    )
    other = make_images(tmp_path / "other")
    (other / "val/cat").rename(other / "val/cow")
    error = sentence(capsys, "validate", other, "--checkpoint", file)
    assert "cat" in error and "cow" in error and "differ" in error
