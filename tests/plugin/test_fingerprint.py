"""A model refuses a checkpoint that was trained with another dictionary, and says so."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from revcol_nlp.checkpoints.errors import DictionaryMismatchError
from revcol_nlp.checkpoints.fingerprint import DictionaryFingerprint
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, USER_DIR, RunFairseq


@dataclass
class Dictionary:
    symbols: list[str]


WORDS = ["<s>", "<pad>", "</s>", "<unk>", "ein", "Haus"]


def encoder(symbols: list[str]) -> nn.Module:
    module = nn.Module()
    module.embed_tokens = nn.Embedding(len(symbols), 4)
    module.dictionary_fingerprint = DictionaryFingerprint(Dictionary(symbols), side="source")
    return module


def test_loads_with_the_same_dictionary(caplog: pytest.LogCaptureFixture) -> None:
    incompatible = encoder(WORDS).load_state_dict(encoder(list(WORDS)).state_dict())
    assert not incompatible.missing_keys and not incompatible.unexpected_keys
    assert not caplog.records


@pytest.mark.parametrize(
    ("symbols", "difference"),
    [
        ([*WORDS[:4], "Haus", "ein"], "its 6 entries are other symbols, or the same symbols in"),
        ([*WORDS[:5], "Maus"], "its 6 entries are other symbols, or the same symbols in"),
        ([*WORDS, "groß"], "it had 6 entries, this one has 7"),
    ],
    ids=["order", "symbol", "size"],
)
@pytest.mark.parametrize("strict", [True, False])
def test_refuses_another_dictionary(symbols: list[str], difference: str, strict: bool) -> None:
    saved = encoder(WORDS).state_dict()
    with pytest.raises(DictionaryMismatchError, match=rf"\(source side\): {difference}"):
        encoder(symbols).load_state_dict(saved, strict=strict)


def test_warns_where_a_checkpoint_has_no_fingerprint(caplog: pytest.LogCaptureFixture) -> None:
    saved = encoder(WORDS).state_dict()
    del saved["dictionary_fingerprint.version"]
    encoder(WORDS).load_state_dict(saved)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "source dictionary" in caplog.text


def test_survives_half_precision_and_the_averaging_of_checkpoints() -> None:
    model = encoder(WORDS)
    saved = model.half().state_dict()["dictionary_fingerprint.version"]
    assert saved.dtype == torch.int64 and saved.max() < 2**31
    averaged = sum(saved.clone() for _ in range(10)) // 10
    assert torch.equal(averaged, saved)
    model.float().load_state_dict(model.state_dict())


def test_survives_a_moving_average_of_the_weights(caplog: pytest.LogCaptureFixture) -> None:
    from fairseq.dataclass.configs import EMAConfig
    from fairseq.models.ema.ema import EMA

    import revcol_nlp.models  # noqa: F401 (installs the patches)

    model = encoder(WORDS)
    average = EMA(model, EMAConfig(ema_decay=0.5))
    start = model.embed_tokens.weight.detach().clone()
    nn.init.zeros_(model.embed_tokens.weight)
    average.step(model)
    assert torch.allclose(average.get_model().embed_tokens.weight, start / 2)
    assert not caplog.records
    encoder(WORDS).load_state_dict(average.get_model().state_dict())


@pytest.fixture(scope="module")
def permuted_data(tmp_path_factory: pytest.TempPathFactory, toy_data: Path) -> Path:
    """``toy_data`` with the lines of its dictionary in reverse order."""
    folder = tmp_path_factory.mktemp("permuted") / "data-bin"
    shutil.copytree(toy_data, folder)
    lines = (toy_data / "dict.src.txt").read_text().splitlines(keepends=True)
    for language in ("src", "tgt"):
        (folder / f"dict.{language}.txt").write_text("".join(reversed(lines)))
    return folder


@pytest.mark.parametrize(
    "option",
    ["--restore-file", pytest.param("--finetune-from-model", marks=pytest.mark.slow)],
)
def test_training_refuses_a_permuted_dictionary_in_its_last_sentence(
    tmp_path: Path, trained: Path, permuted_data: Path, run_fairseq: RunFairseq, option: str
) -> None:
    checkpoint = trained / "checkpoint2.pt"
    done = run_fairseq(
        *("train", permuted_data, *TINY_MODEL, *TRAINING, "--save-dir", tmp_path),
        *(option, checkpoint),
        check=False,
    )
    assert done.returncode == 1
    sentence = done.stderr.rstrip().splitlines()[-1]
    assert f"{checkpoint}: the checkpoint was trained with another dictionary" in sentence


@pytest.mark.slow
def test_generation_refuses_a_permuted_dictionary_in_its_last_sentence(
    trained: Path, permuted_data: Path, run_fairseq: RunFairseq
) -> None:
    done = run_fairseq(
        *("generate", permuted_data, "--user-dir", USER_DIR, "--cpu"),
        *("--path", trained / "checkpoint_last.pt"),
        check=False,
    )
    assert done.returncode == 1
    assert "trained with another dictionary" in done.stderr.rstrip().splitlines()[-1]


def test_hub_refuses_a_permuted_dictionary(
    trained: Path, toy_data: Path, permuted_data: Path
) -> None:
    from fairseq import hub_utils

    def load(data: Path) -> object:
        return hub_utils.from_pretrained(
            str(trained), "checkpoint_last.pt", str(data), user_dir=str(USER_DIR)
        )

    load(toy_data)
    with pytest.raises(DictionaryMismatchError):
        load(permuted_data)
