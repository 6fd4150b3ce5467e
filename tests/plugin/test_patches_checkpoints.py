"""What fairseq's commands load from checkpoints and save in them."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.configs import EMAConfig
from fairseq.models.ema.ema import EMA

import revcol_nlp.models  # noqa: F401 (installs the patches)
from revcol_nlp.checkpoints.errors import DamagedCheckpointError, UnusableCheckpointError
from tests.helpers.checkpoints import load
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, RunFairseq
from tests.helpers.transformers import build_small


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


def test_a_checkpoint_says_its_languages(trained: Path) -> None:
    task = load(trained / "checkpoint_last.pt")["cfg"]["task"]
    assert (task["source_lang"], task["target_lang"]) == ("src", "tgt")


# Weights that are not finite


def with_a_nan(trained: Path, folder: Path, *keys: str) -> Path:
    state = load(trained / "checkpoint_last.pt")
    weights = state
    for key in keys:
        weights = weights.setdefault(key, {})
    weights["encoder.embed_tokens.weight"] = torch.full((3,), math.nan)
    torch.save(state, folder / "checkpoint_last.pt")
    return folder / "checkpoint_last.pt"


@pytest.mark.parametrize("keys", [("model",), ("extra_state", "ema")])
def test_a_file_with_a_nan_is_refused(trained: Path, tmp_path: Path, keys: tuple[str]) -> None:
    path = with_a_nan(trained, tmp_path, *keys)
    with pytest.raises(UnusableCheckpointError, match=rf"{path}: encoder.embed_tokens.weight is "):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_training_does_not_resume_from_a_file_with_a_nan(
    trained: Path, toy_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    path = with_a_nan(trained, tmp_path, "model")
    done = run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--save-dir", tmp_path), check=False
    )
    assert done.returncode == 1
    assert f"{path}: encoder.embed_tokens.weight is not finite" in done.stderr.splitlines()[-1]


def test_a_moving_average_does_not_check_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update of --store-ema loads weights; on a GPU, each value that is read stops it."""
    model, calls = build_small(), []
    average = EMA(model, EMAConfig(ema_decay=0.5))
    for owner, name in ((torch.Tensor, "isfinite"), (torch.Tensor, "tolist"), (torch, "isfinite")):
        monkeypatch.setattr(owner, name, lambda *args: calls.append(args))
    average.step(model)
    assert calls == []


def test_a_moving_average_keeps_the_last_layer_norm() -> None:
    model = build_small()
    average = EMA(model, EMAConfig(ema_decay=0.5))
    average.step(model)
    assert average.get_model().state_dict().keys() == model.state_dict().keys()


def test_a_moving_average_takes_a_nan_as_fairseq_does() -> None:
    model = build_small()
    average = EMA(model, EMAConfig(ema_decay=0.5))
    torch.nn.init.constant_(model.encoder.embed_tokens.weight, math.nan)
    average.step(model)
    averaged = average.get_model().state_dict()
    assert averaged["encoder.embed_tokens.weight"].isnan().all()
    assert averaged["encoder.layer_norm.weight"].isfinite().all()


@pytest.mark.slow
def test_a_training_with_a_moving_average_ends_at_a_nan_as_in_fairseq(
    toy_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    ends = []
    for mode, environment in {"on": {}, "off": {"REVCOL_FAIRSEQ_PATCHES": "off"}}.items():
        done = run_fairseq(
            *("train", toy_data, *TINY_MODEL, *TRAINING, "--store-ema", "--lr", "1e30"),
            *("--max-update", "3", "--save-dir", tmp_path / mode),
            check=False,
            **environment,
        )
        ends.append((done.returncode, done.stderr.rstrip().splitlines()[-1]))
    assert ends[0] == ends[1] and ends[0][0] == 1
    assert "in the checkpoint" not in ends[0][1]


# Checksums


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "rank", "is_checked"),
    [
        ("checkpoint_last.pt", 0, True),
        ("checkpoint_last.pt", 1, False),
        ("checkpoint_last-shard1.pt", 1, True),
    ],
)
def test_one_process_compares_the_checksums_of_a_file_that_all_load(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    rank: int,
    is_checked: bool,
) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
    shutil.copy(trained / "checkpoint_last.pt", tmp_path / name)
    flip_a_bit(tmp_path / name)
    if is_checked:
        with pytest.raises(DamagedCheckpointError, match="truncated or overwritten"):
            checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / name))
    else:
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / name))
