"""What fairseq gets wrong or loses silently is right with the plugin."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import data_utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf

import revcol_nlp.models  # noqa: F401 (installs the patches)
from tests.conftest import TINY_MODEL, TRAINING, USER_DIR, RunFairseq
from tests.helpers.transformers import small


def load(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, map_location="cpu")


def assert_same_state(checkpoint: Path, expected: Path) -> None:
    """Parameters and optimiser state are equal to the last bit."""
    saved, wanted = load(checkpoint), load(expected)
    for key in ("model", "last_optimizer_state"):
        torch.testing.assert_close(saved[key], wanted[key], rtol=0, atol=0)


def test_what_averaging_checkpoints_takes_does_not_import_fairseq() -> None:
    code = (
        "import sys, revcol_nlp.checkpoints.fingerprint, revcol_nlp.checkpoints.contents as safe;"
        "safe.allow_fairseq_globals(); sys.exit('fairseq' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=USER_DIR.parent).returncode == 0


@pytest.mark.parametrize("option", ["checkpoint_activations", "offload_activations"])
def test_checkpointed_activations_are_computed_twice_alike_under_autocast(option: str) -> None:
    model, computed = small(dropout=0.1, **{option: True}).train(), []
    model.decoder.layers[0].fc2.register_forward_hook(lambda *call: computed.append(call[-1]))
    tokens = torch.arange(4, 11)[None]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, None, tokens)[0].float().logsumexp(-1).sum()
    loss.backward()
    before, recomputed = computed
    assert before.dtype == torch.bfloat16
    torch.testing.assert_close(recomputed, before, rtol=0, atol=0)


# Batches


@pytest.mark.parametrize("size", [0, 1, 7, 8, 60, 64])
def test_each_sentence_is_in_one_batch(size: int) -> None:
    batches = data_utils.batch_by_size(
        np.arange(size), lambda index: index + 1, max_tokens=2000, required_batch_size_multiple=8
    )
    assert [index for batch in batches for index in batch] == list(range(size))


def test_batches_of_a_whole_multiple_are_those_of_fairseq() -> None:
    arguments = (np.arange(64), lambda index: index + 1)
    options = {"max_tokens": 800, "required_batch_size_multiple": 8}
    theirs = data_utils.batch_by_size.__wrapped__(*arguments, **options)
    ours = data_utils.batch_by_size(*arguments, **options)
    assert [batch.tolist() for batch in ours] == [batch.tolist() for batch in theirs]


def test_generation_returns_as_many_lines_as_went_in(
    trained: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    done = run_fairseq(
        *("generate", toy_data, "--user-dir", USER_DIR, "--cpu", "--beam", "1"),
        *("--path", trained / "checkpoint_last.pt", "--max-len-b", "10"),
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("H-")]
    assert sorted(int(line.split("\t")[0][2:]) for line in lines) == list(range(60))


def test_a_resumed_training_goes_on_bit_for_bit(
    tmp_path: Path, trained: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    shutil.copy(trained / "checkpoint_3_12.pt", tmp_path / "checkpoint_last.pt")
    run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0.1", "--max-epoch", "3"),
        *("--save-dir", tmp_path),
    )
    assert_same_state(tmp_path / "checkpoint3.pt", trained / "checkpoint3.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["--update-ordered-indices-seed", "--update-epoch-batch-itr=True"]
)
def test_options_that_change_the_batches_resume_bit_for_bit(
    tmp_path: Path, toy_data: Path, run_fairseq: RunFairseq, option: str
) -> None:
    train = ("train", toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0.1", *option.split("="))
    run_fairseq(*train, "--max-epoch", "3", "--save-dir", tmp_path / "whole")
    for epochs in (2, 3):
        run_fairseq(*train, "--max-epoch", epochs, "--save-dir", tmp_path / "resumed")
    assert_same_state(*(tmp_path / run / "checkpoint3.pt" for run in ("resumed", "whole")))


@pytest.mark.slow
def test_a_resumed_training_stops_when_it_would_have_stopped(
    tmp_path: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    for epochs in (3, 6):  # nothing is learnt after the first epoch: the fourth is the last
        run_fairseq(
            *("train", toy_data, *TINY_MODEL, *TRAINING, "--lr", "1e-20", "--patience", "3"),
            *("--max-epoch", epochs, "--save-dir", tmp_path),
        )
    assert (tmp_path / "checkpoint4.pt").exists()
    assert not (tmp_path / "checkpoint5.pt").exists()


# Several processes


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


@pytest.mark.slow
def test_torchrun_trains_one_model_with_hydra(
    tmp_path: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        run_fairseq(
            *("hydra_train", "task=translation", f"task.data={toy_data}"),
            *("task.source_lang=src", "task.target_lang=tgt", f"common.user_dir={USER_DIR}"),
            *("common.cpu=true", "optimizer=adam", "optimization.lr=[0.005]"),
            *("criterion=label_smoothed_cross_entropy", "lr_scheduler=fixed"),
            *("dataset.max_tokens=400", "dataset.num_workers=0", "optimization.max_epoch=1"),
            *(f"optimization.update_freq=[{2 // processes}]", f"hydra.run.dir={folder}"),
            *(f"checkpoint.save_dir={folder}", "+model={_name:transformer_tiny,dropout:0.0}"),
            processes=processes,
        )
    assert_same_state(tmp_path / "2" / "checkpoint_last.pt", tmp_path / "1" / "checkpoint_last.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is an error only where there is no GPU")
def test_a_training_that_would_start_no_process_is_refused() -> None:
    cfg = OmegaConf.structured(FairseqConfig)
    cfg.distributed_training.distributed_init_method = "tcp://localhost:1"
    with pytest.raises(ValueError, match="start the processes with torchrun"):
        distributed_utils.call_main(cfg, pytest.fail)


# fairseq-interactive


def test_interactive_leaves_bad_lines_blank_and_goes_on(
    trained: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    done = run_fairseq(
        *("interactive", toy_data, "--user-dir", USER_DIR, "--cpu", "--beam", "1"),
        *("--path", trained / "checkpoint_last.pt", "--min-len", "2"),
        *("--buffer-size", "2", "--max-tokens", "500", "--constraints"),
        input="\n".join(["", "w1 w2", "w5 " * 1100, "", "w3 w4"]),
    )
    hypotheses = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("H-")]
    assert [id_ for id_, _, _ in hypotheses] == ["H-0", "H-1", "H-2", "H-3", "H-4"]
    assert [i for i, (_, _, text) in enumerate(hypotheses) if not text] == [0, 2, 3]
    assert [i for i, (_, score, _) in enumerate(hypotheses) if score == "-inf"] == [0, 2, 3]
    assert "S-1\tw1 w2\n" in done.stdout and "S-4\tw3 w4\n" in done.stdout
    assert "line 1 is empty: its translation H-0 is empty\n" in done.stderr
    assert "line 3 has 1101 tokens, over 500: its translation H-2 is empty\n" in done.stderr
