"""fairseq-train in several processes computes what one computes with their batches joined."""

import copy
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairseq_cli.train
import pytest
import torch
from fairseq.data import ListDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

import revcol_nlp.models  # noqa: F401 (registers the architectures, in each process)
from tests.helpers.checkpoints import load
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING
from tests.helpers.processes import run_in_processes

# Processes add the gradients of their batches in another order than one process does, which rounds
# differently on every processor. SGD moves a weight by as much as its gradient changes. Adam would
# not do here: it makes a full step of a gradient that is rounding alone.
SGD = ("--optimizer", "sgd", "--momentum", "0.9", "--lr", "0.1")
MODEL = (*TINY_MODEL, *TRAINING, *SGD, "--dropout", "0", "--encoder-columns", "3")
FP16 = ("--fp16", "--fp16-no-flatten-grads")

Curve = list[tuple[float, float]]
Weights = dict[str, torch.Tensor]


def train(*args: object) -> tuple[Curve, Weights]:
    """Run ``fairseq-train`` with ``args`` in this process.

    Returns:
        loss and gradient norm of each update, as fairseq logs them, and the weights before the
        first update.
    """
    curve: Curve = []
    initial: Weights = {}
    original = Trainer.train_step

    def train_step(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        if not initial:
            initial.update(copy.deepcopy(trainer.get_model().state_dict()))
        output = original(trainer, *args, **kwargs)
        meters = (metrics.get_meter("train_inner", name) for name in ("loss", "gnorm"))
        curve.append(tuple(float(meter.val) for meter in meters))
        return output

    Trainer.train_step = train_step
    sys.argv = ["fairseq-train", *map(str, args)]
    fairseq_cli.train.cli_main()
    return curve, initial


class Result:
    """Curve and weights of a training that may be stopped and resumed.

    Args:
        folder: an empty folder for checkpoints.
        parts: the training and its resumptions, each a number of processes, and options.
        batches: how many of the 5 batches of an epoch an update takes. In the last update of an
            epoch, some processes get no batch.
    """

    def __init__(self, folder: Path, *parts: tuple[int, tuple[object, ...]], batches: int = 4):
        self.curve: Curve = []
        self.initial: Weights | None = None
        for world, options in parts:
            options = (*MODEL, "--update-freq", batches // world, *options)
            options += ("--no-epoch-checkpoints",)
            found = run_in_processes(world, train, *options, "--save-dir", folder)
            curves = [curve for curve, _ in found]
            assert all(curve == curves[0] for curve in curves)
            self.curve += curves[0]
            self.initial = self.initial or found[0][1]
        self.weights: Weights = load(folder / "checkpoint_last.pt")["model"]

    def assert_like(self, other: "Result") -> None:
        """Assert that loss, gradient norm and weights agree up to the rounding of sums."""
        assert self.curve == [pytest.approx(point, rel=1e-5) for point in other.curve]
        assert self.weights.keys() == other.weights.keys()
        moved = [other.weights[name] - other.initial[name] for name in other.weights]
        furthest = max(change.abs().max().item() for change in moved)
        for name, weight in other.weights.items():
            if weight.is_floating_point():
                bound = {"rtol": torch.finfo(weight.dtype).eps, "atol": 1e-5 * furthest}
                torch.testing.assert_close(self.weights[name], weight, **bound)


@pytest.fixture(scope="module")
def one_process(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """``one_process(*options, batches=4)``: the training in one process, 2 epochs of 2 updates."""

    @functools.cache
    def train_alone(*options: object, batches: int = 4) -> Result:
        folder = tmp_path_factory.mktemp("one_process")
        return Result(folder, (1, (toy_data, "--max-epoch", 2, *options)), batches=batches)

    return train_alone


def slow(world: int, *options: str) -> Any:
    return pytest.param(world, options, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("world", "options"),
    [
        (2, ("--find-unused-parameters",)),
        (4, ("--ddp-backend", "legacy_ddp")),
        slow(2),
        slow(4),
        *(slow(world, "--ddp-backend", name) for world in (2, 4) for name in ("c10d", "no_c10d")),
        slow(2, "--ddp-backend", "legacy_ddp"),
        slow(4, "--find-unused-parameters"),
        slow(4, "--bucket-cap-mb", "1", "--gradient-as-bucket-view"),
        slow(4, "--broadcast-buffers"),
        slow(4, "--encoder-keep-columns", "0", "--checkpoint-activations"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_processes_compute_what_one_computes(
    world: int,
    options: tuple[str, ...],
    one_process: Callable[..., Result],
    toy_data: Path,
    tmp_path: Path,
) -> None:
    found = Result(tmp_path, (world, (toy_data, "--max-epoch", 2, *options)))
    assert len(found.curve) == 4
    found.assert_like(one_process())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
@pytest.mark.parametrize("precision", [FP16, ("--bf16",), ("--amp",)], ids=["fp16", "bf16", "amp"])
def test_half_precision_in_two_processes(
    precision: tuple[str, ...],
    backend: str,
    one_process: Callable[..., Result],
    toy_data: Path,
    tmp_path: Path,
) -> None:
    """With two batches per update: the sum of more depends on the order, in half precision."""
    run = (2, (toy_data, "--max-epoch", 2, "--ddp-backend", backend, *precision))
    Result(tmp_path, run, batches=2).assert_like(one_process(*precision, batches=2))


@pytest.mark.parametrize(
    ("before", "after", "updates"),
    [
        (2, 1, 1),
        pytest.param(1, 2, 1, marks=pytest.mark.slow),
        pytest.param(4, 2, 3, marks=pytest.mark.slow),
        pytest.param(2, 4, 2, marks=pytest.mark.slow),
    ],
)
def test_another_number_of_processes_goes_on_where_a_run_was(
    before: int,
    after: int,
    updates: int,
    one_process: Callable[..., Result],
    toy_data: Path,
    tmp_path: Path,
) -> None:
    """In the middle of an epoch, too: after 1 and 3 updates."""
    cut_off = (before, (toy_data, "--max-update", updates))
    Result(tmp_path, cut_off, (after, (toy_data, "--max-epoch", 2))).assert_like(one_process())


def test_a_number_of_processes_that_cannot_go_on_is_refused() -> None:
    def iterator(shards: int) -> EpochBatchIterator:
        return EpochBatchIterator(
            ListDataset(list(range(12))),
            collate_fn=list,
            batch_sampler=[[index] for index in range(12)],
            num_shards=shards,
        )

    saved = iterator(2)
    batches = saved.next_epoch_itr()
    next(batches), next(batches), next(batches)
    going_on = iterator(3)
    going_on.load_state_dict(saved.state_dict())
    assert going_on.iterations_in_epoch == 2
    with pytest.raises(ValueError, match=r"by 2 processes after 6 batches of epoch 1.* divides 6"):
        iterator(4).load_state_dict(saved.state_dict())


def test_going_on_in_the_middle_of_an_epoch_with_other_batches_is_refused() -> None:
    def iterator(size: int) -> EpochBatchIterator:
        batches = [list(range(first, first + size)) for first in range(0, 12, size)]
        return EpochBatchIterator(ListDataset(list(range(12))), list, batch_sampler=batches)

    saved = iterator(1)
    batches = saved.next_epoch_itr()
    at_the_beginning = saved.state_dict()
    next(batches)
    with pytest.raises(ValueError, match=r"of 12 batches, .* 6 .*--max-tokens"):
        iterator(2).load_state_dict(saved.state_dict())
    iterator(2).load_state_dict(at_the_beginning)


def test_a_backend_that_hides_parameters_is_refused_with_reversible_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.distributed_training.ddp_backend = "fully_sharded"
    cfg.model = {"encoder_no_reversible": False}
    with pytest.raises(ValueError, match="add --encoder-no-reversible"):
        distributed_utils.call_main(cfg, fairseq_cli.train.main)


@pytest.mark.parametrize("backend", ["fully_sharded", "slowmo"])
def test_a_backend_that_needs_a_gpu_is_refused_on_the_cpu(backend: str) -> None:
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.common.cpu = True
    cfg.distributed_training.ddp_backend = backend
    with pytest.raises(ValueError, match=f"{backend} needs a GPU .* take pytorch_ddp"):
        distributed_utils.call_main(cfg, fairseq_cli.train.main)
