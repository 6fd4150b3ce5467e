"""fairseq's own commands on its own transformer, with the patches and without: they differ as the
table of patches says, and no further.
"""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.checkpoints import assert_same_state, load
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, USER_DIR, RunFairseq

OFF = {
    "REVCOL_FAIRSEQ_PATCHES": "off",
    # fairseq's own checkpoints cannot be loaded otherwise, as checkpoints.safe_globals says.
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
}
MODES = {"on": {}, "off": OFF}
TRANSFORMER = (
    *("transformer" if option == "revcol_transformer_tiny" else option for option in TINY_MODEL),
    *("--encoder-layers", "1"),
)
TRAIN = (*TRANSFORMER, *TRAINING, "--dropout", "0.1", "--disable-validation")
# 200 sentences in 5 batches: nothing remains that fairseq would drop.
EVEN = ("--batch-size", "40", "--max-tokens", "4000")
DECODE = (
    *("--user-dir", USER_DIR, "--cpu", "--num-workers", "0"),
    *("--beam", "2", "--min-len", "2", "--max-len-b", "10"),
)


@pytest.fixture(scope="module")
def trained_with(
    tmp_path_factory: pytest.TempPathFactory, toy_data: Path, run_fairseq: RunFairseq
) -> dict[str, Path]:
    """The checkpoint of 2 epochs in each mode."""
    folder = tmp_path_factory.mktemp("trained_with")
    for mode, environment in MODES.items():
        run_fairseq(
            *("train", toy_data, *TRAIN, *EVEN, "--max-epoch", "2", "--save-dir", folder / mode),
            **environment,
        )
    return {mode: folder / mode / "checkpoint_last.pt" for mode in MODES}


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """The paths at which two checkpoints differ."""
    if isinstance(ours, Namespace):
        ours, theirs = vars(ours), vars(theirs)
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*ours, *theirs]):
            inner = f"{path}.{key}".strip(".")
            if key in ours and key in theirs:
                yield from differences(ours[key], theirs[key], inner)
            else:
                yield inner
    elif isinstance(ours, torch.Tensor):
        if not torch.equal(ours, theirs):
            yield path
    elif ours != theirs:
        yield path


def test_training_gives_the_same_checkpoint_but_for_what_the_table_adds(
    trained_with: dict[str, Path],
) -> None:
    assert_same_state(trained_with["on"], trained_with["off"])
    found = set(differences(*(load(trained_with[mode]) for mode in MODES)))
    of_the_clock = {path for path in found if re.search(r"metrics|previous_training_time", path)}
    assert found - of_the_clock == {
        *("cfg.checkpoint.save_dir", "cfg.model.save_dir"),
        *("cfg.task.source_lang", "cfg.task.target_lang"),  # checkpoints.languages
        "extra_state.early_stopping",  # checkpoints.early_stopping
        *("extra_state.train_iterator.num_shards", "extra_state.train_iterator.batches"),
    }


def test_training_sees_the_sentences_that_would_be_dropped(
    toy_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    updates = {}
    for mode, environment in MODES.items():
        run_fairseq(  # 4 batches of 48 sentences, and one of 8
            *("train", toy_data, *TRAIN, "--batch-size", "48", "--max-tokens", "4000"),
            *("--required-batch-size-multiple", "16", "--max-epoch", "1"),
            *("--save-dir", tmp_path / mode),
            **environment,
        )
        history = load(tmp_path / mode / "checkpoint_last.pt")["optimizer_history"]
        updates[mode] = history[-1]["num_updates"]
    assert updates == {"on": 5, "off": 4}


def translations(output: str) -> dict[int, str]:
    """Score and text of each translation that a command printed."""
    return {int(n): rest for n, rest in re.findall(r"^H-(\d+)\t(.*)$", output, re.M)}


def test_generation_differs_by_the_sentences_that_would_be_dropped(
    toy_data: Path, trained_with: dict[str, Path], run_fairseq: RunFairseq
) -> None:
    command = ("generate", toy_data, *DECODE, "--path", trained_with["off"])
    found = {mode: translations(run_fairseq(*command, **MODES[mode]).stdout) for mode in MODES}
    assert set(found["on"]) == set(range(60)) and len(found["off"]) == 56
    assert found["on"].items() > found["off"].items()


def test_without_patches_a_checkpoint_with_a_namespace_is_not_loaded(
    toy_data: Path, trained_with: dict[str, Path], run_fairseq: RunFairseq
) -> None:
    done = run_fairseq(
        *("generate", toy_data, *DECODE, "--path", trained_with["off"]),
        check=False,
        REVCOL_FAIRSEQ_PATCHES="off",
    )
    assert done.returncode != 0
    assert "argparse.Namespace" in done.stderr


def test_interactive_differs_in_the_lines_that_cannot_be_translated(
    toy_data: Path, trained_with: dict[str, Path], run_fairseq: RunFairseq
) -> None:
    command = ("interactive", toy_data, *DECODE, "--path", trained_with["off"])
    lines = ["w1 w2", "", "w3 w4 w5"]
    found = {
        mode: translations(run_fairseq(*command, input="\n".join(lines), **MODES[mode]).stdout)
        for mode in MODES
    }
    assert found["on"].pop(1) == "-inf\t"
    assert found["off"].pop(1).split("\t")[1]
    assert found["on"] == found["off"] and set(found["on"]) == {0, 2}


@pytest.mark.slow
def test_resuming_in_a_later_epoch_differs(
    toy_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    states = {}
    for mode, environment in MODES.items():
        command = ("train", toy_data, *TRAIN, "--max-tokens", "200", "--save-dir")
        for name, epochs in {"whole": (3,), "resumed": (2, 3)}.items():
            for last in epochs:
                folder = tmp_path / mode / name
                run_fairseq(*command, folder, "--max-epoch", last, **environment)
            states[mode, name] = load(folder / "checkpoint3.pt")["model"]
    assert not list(differences(states["on", "resumed"], states["on", "whole"]))
    assert list(differences(states["off", "resumed"], states["off", "whole"]))
