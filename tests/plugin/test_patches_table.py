"""The table of patches: what it says is true, and it installs, removes and chooses patches."""

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import data_utils
from fairseq.file_io import PathManager
from fairseq.models import distributed_fairseq_model
from fairseq.trainer import Trainer
from torch.nn.parallel import DistributedDataParallel

import revcol_nlp.models  # noqa: F401 (installs the patches)
from revcol_nlp.fairseq_patches import (
    PATCHES,
    MissingTargetError,
    choose_patches,
    install,
    list_installed,
    remove,
)
from revcol_nlp.models.config import PRESETS
from revcol_nlp.models.decoder_init import begin_with_decoder
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, USER_DIR, RunFairseq

ROOT = USER_DIR.parent
PAGE = USER_DIR / "fairseq_patches" / "README.md"
FEATURE = "models.init_decoder_from"


@pytest.fixture(autouse=True)
def all_patches_afterwards() -> Iterator[None]:
    yield
    remove()
    install(PRESETS, begin_with_decoder)


def named(name: str):
    return next(patch for patch in PATCHES if patch.name == name)


# The table and its page


def test_names_are_unique_and_name_a_file() -> None:
    names = [patch.name for patch in PATCHES]
    assert len(set(names)) == len(names)
    files = {path.stem for path in (USER_DIR / "fairseq_patches").glob("*.py")}
    assert {name.partition(".")[0] for name in names} <= files | {"commands", "models"}


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_every_patch_has_one_sentence_each_and_a_test(patch) -> None:
    for text in (patch.without, patch.effect):
        assert text.endswith(".") and "\n" not in text
    assert patch.since and patch.until
    path, _, name = patch.test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()


def test_the_page_has_the_rows_of_the_table() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if "](../../tests/" in line]
    wanted = [
        f"| `{patch.name}` | {patch.without} | {patch.effect} | {patch.since} | {patch.until} "
        f"| {page_link(patch.test)} |"
        for patch in PATCHES
    ]
    assert rows == wanted


def page_link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[{name}](../../{path})"


# Installing and removing


def test_removing_gives_fairseqs_own_functions_back() -> None:
    patched = Trainer.save_checkpoint
    remove()
    assert list_installed() == []
    for function in (
        Trainer.save_checkpoint,
        Trainer.load_checkpoint,
        data_utils.batch_by_size,
        PathManager.copy,
        checkpoint_utils.load_checkpoint_to_cpu,
        utils.import_user_module,
    ):
        assert not hasattr(function, "__wrapped__")
    assert patched.__wrapped__ is Trainer.save_checkpoint
    assert isinstance(vars(PathManager)["copy"], staticmethod)
    assert distributed_fairseq_model.DistributedDataParallel is DistributedDataParallel


def test_installing_twice_is_installing_once() -> None:
    before = Trainer.load_checkpoint, distributed_fairseq_model.DistributedDataParallel
    install(PRESETS, begin_with_decoder)
    after = Trainer.load_checkpoint, distributed_fairseq_model.DistributedDataParallel
    assert before == after
    assert not hasattr(after[0].__wrapped__, "__wrapped__")


def test_one_patch_is_removed_and_the_others_of_its_function_stay() -> None:
    calls = []

    def note(name: str):
        def replacement(original, *args):
            calls.append(name)
            return original(*args)

        return replacement

    target = "fairseq.utils:item"
    first, second = (
        dataclasses.replace(named("batches.remainder"), name=name, replaces={target: note(name)})
        for name in ("first", "second")
    )
    first.install(), second.install()
    stored = utils.item
    assert utils.item(3) == 3 and calls == ["second", "first"]
    first.remove()
    assert utils.item(3) == 3 and calls == ["second", "first", "second"]
    second.remove()
    assert stored(3) == 3 and len(calls) == 3
    assert utils.item is stored.__wrapped__


def test_permissions_are_taken_back_only_where_they_were_given(tmp_path: Path) -> None:
    class Other:
        pass

    remove()
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Other])
    install(PRESETS, begin_with_decoder)
    remove()
    assert set(torch.serialization.get_safe_globals()) == {*before, Other}
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def test_a_function_that_a_module_imported_by_name_is_replaced_there() -> None:
    train = importlib.import_module("fairseq_cli.train")
    remove()
    patch = dataclasses.replace(
        named("batches.remainder"),
        name="test",
        replaces={"fairseq.dataclass.utils:convert_namespace_to_omegaconf": lambda *args: "ours"},
    )
    patch.install()
    assert train.convert_namespace_to_omegaconf(None) == "ours"
    patch.remove()
    assert not hasattr(train.convert_namespace_to_omegaconf, "__wrapped__")


@pytest.mark.parametrize(
    "target", ["fairseq.trainer:Trainer.gone", "fairseq.gone:function", "fairseq_cli.train:gone"]
)
def test_a_name_that_fairseq_does_not_have_is_one_clear_error(target: str) -> None:
    importlib.import_module("fairseq_cli.train")
    patch = dataclasses.replace(named("batches.remainder"), name="x.y", replaces={target: print})
    with pytest.raises(MissingTargetError, match=rf"patch x.y replaces {target}, which fairseq 0"):
        patch.install()
    assert "x.y" not in list_installed()


def test_somebody_elses_replacement_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr(utils, "import_user_module", print)
        remove()
        assert utils.import_user_module is print


# Choosing


def test_the_variable_chooses_patches() -> None:
    def names(choice: str | None) -> list[str]:
        return [patch.name for patch in choose_patches(choice)]

    assert names(None) == [patch.name for patch in PATCHES]
    assert names("off") == [FEATURE]
    chosen = names("batches.resuming, batches.remainder")
    assert chosen == ["batches.remainder", "batches.resuming", FEATURE]


@pytest.mark.parametrize(
    ("choice", "near"),
    [("batches.remaindr", "batches.remainder"), ("remainder", "remainder"), ("xyz", "hydra.pre")],
)
def test_an_unknown_name_is_a_sentence_with_near_ones(choice: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"{choice}.* did you mean .*{near}.*list prints all"):
        choose_patches(f"batches.resuming,{choice}")


def test_commands_read_the_variable(
    toy_data: Path, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    command = ("train", toy_data, *TINY_MODEL, *TRAINING, "--save-dir", tmp_path)
    listed = run_fairseq(*command, REVCOL_FAIRSEQ_PATCHES="list")
    for patch in PATCHES:
        assert f"{patch.name}\n" in listed.stdout and patch.without in listed.stdout
        assert all(f"replaces {target}\n" in listed.stdout for target in patch.replaces)
    assert not list(tmp_path.iterdir())
    unknown = run_fairseq(*command, check=False, REVCOL_FAIRSEQ_PATCHES="on")
    assert unknown.returncode != 0
    assert "'on', which is not a patch" in unknown.stderr.rstrip().splitlines()[-1]
