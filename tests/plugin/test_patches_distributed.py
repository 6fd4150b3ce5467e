"""Several processes without a GPU train one model, or are refused."""

from pathlib import Path

import fairseq.models.distributed_fairseq_model as distributed_models
import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf
from torch.nn.parallel import DistributedDataParallel

import revcol_nlp.models  # noqa: F401 (installs the patches)
from tests.helpers.checkpoints import assert_same_state
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, RunFairseq


@pytest.fixture(scope="module")
def one_process(
    tmp_path_factory: pytest.TempPathFactory, toy_data: Path, run_fairseq: RunFairseq
) -> Path:
    """The checkpoint of one process that takes two batches per update, for two epochs."""
    folder = tmp_path_factory.mktemp("one_process")
    run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0", "--max-epoch", "2"),
        *("--update-freq", "2", "--no-epoch-checkpoints", "--save-dir", folder),
    )
    return folder / "checkpoint_last.pt"


def test_torchrun_trains_one_model_and_resumes_it(
    tmp_path: Path, one_process: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    for epoch, backend in enumerate(("pytorch_ddp", "legacy_ddp"), start=1):
        done = run_fairseq(
            *("train", toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0", "--max-epoch", epoch),
            *("--ddp-backend", backend, "--no-epoch-checkpoints", "--save-dir", tmp_path),
            processes=2,
        )
        assert "broadcast_buffers" not in done.stderr
    assert_same_state(tmp_path / "checkpoint_last.pt", one_process)


def test_the_class_that_distributes_a_model_stays_a_class() -> None:
    assert issubclass(distributed_models.DistributedDataParallel, DistributedDataParallel)
    assert not isinstance(torch.nn.Linear(1, 1), distributed_models.DistributedDataParallel)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is an error only where there is no GPU")
def test_a_training_that_would_start_no_process_is_refused() -> None:
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.distributed_training.distributed_init_method = "tcp://localhost:1"
    with pytest.raises(ValueError, match="start the processes with torchrun"):
        distributed_utils.call_main(cfg, pytest.fail)
