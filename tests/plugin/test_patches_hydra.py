"""fairseq-hydra-train: the options of the named architecture, and several processes."""

from pathlib import Path

import pytest

from tests.helpers.checkpoints import assert_same_state, load
from tests.helpers.fairseq_commands import USER_DIR, RunFairseq


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


def test_hydra_fills_in_the_named_architecture(
    tmp_path: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    run_fairseq(
        *("hydra_train", "task=translation", f"task.data={toy_data}", "common.cpu=true"),
        *(f"common.user_dir={USER_DIR}", "+model={_name:revcol_transformer_tiny,dropout:0.2}"),
        *("optimizer=adam", "optimization.lr=[0.005]", "lr_scheduler=fixed"),
        *("criterion=label_smoothed_cross_entropy", "dataset.max_tokens=400"),
        *("dataset.num_workers=0", "optimization.max_update=1", f"hydra.run.dir={tmp_path}"),
        *(f"checkpoint.save_dir={tmp_path}", "dataset.disable_validation=true"),
    )
    model = load(tmp_path / "checkpoint_last.pt")["cfg"]["model"]
    assert model["encoder_embed_dim"] == 112 and model["share_all_embeddings"]
    assert model["dropout"] == 0.2
