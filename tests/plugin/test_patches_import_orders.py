"""Whatever is imported first, fairseq knows the models, and the same patches are installed."""

import json
import multiprocessing
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from revcol_nlp.fairseq_patches import PATCHES
from tests.helpers.fairseq_commands import USER_DIR
from tests.helpers.fork_server import forking
from tests.helpers.forked import run_forked
from tests.helpers.import_orders import execute_and_send

ROOT = USER_DIR.parent

# Statements of a user, each of which imports what it names.
COLUMNS = "from revcol_nlp import RevCol"
VISION = "import vision"
PLUGIN = "import revcol_nlp.models"
COMMANDS = "import fairseq_cli.train, fairseq_cli.interactive"
BY_OPTION = """
from argparse import Namespace
from fairseq import utils
utils.import_user_module(Namespace(user_dir={user_dir!r}))
"""
BY_HUB = """
from fairseq import hub_utils
try:
    hub_utils.from_pretrained(".", data_name_or_path=".", user_dir={user_dir!r})
except Exception:
    pass  # there is no model
"""
RUN_A_COMMAND = """
from argparse import Namespace
from fairseq import utils
utils.import_user_module(Namespace(user_dir=None))
"""


def by_option(user_dir: object) -> str:
    return BY_OPTION.format(user_dir=str(user_dir))


def by_hub(user_dir: object) -> str:
    return BY_HUB.format(user_dir=str(user_dir))


def outcome(statements: list[str], folder: Path) -> dict[str, Any]:
    """What came of the statements in a process that has imported fairseq and its commands."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = forking.Process(target=execute_and_send, args=(statements, str(folder), send))
    process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        process.join()


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    """What comes of ``--user-dir`` in a command."""
    found = outcome([by_option("revcol_nlp")], ROOT)
    assert found["is registered"] and len(found["patches"]) == len(PATCHES)
    assert {"add_defaults", "make_batches", "save_checkpoint"} <= set(found["replaced"])
    return found


@pytest.mark.parametrize(
    "statements",
    [
        [PLUGIN],
        [COLUMNS, by_option(USER_DIR)],
        [PLUGIN, by_option(USER_DIR)],
        [by_option(USER_DIR), COLUMNS, PLUGIN],
        [VISION, by_option(USER_DIR)],
        [COLUMNS, PLUGIN, VISION],
        [by_hub(USER_DIR)],
        [COLUMNS, by_hub(USER_DIR)],
    ],
    ids=lambda statements: " - ".join(s.strip().splitlines()[0] for s in statements),
)
def test_orders_in_a_command(statements: list[str], usual, tmp_path: Path) -> None:
    assert outcome(statements, tmp_path) == usual


@pytest.mark.parametrize("first", [None, COLUMNS, PLUGIN])
@pytest.mark.parametrize("kind", ["relative", "slash", "link", "named link", "link to parent"])
def test_user_dir_may_be_written_in_any_way(
    kind: str, first: str | None, usual, tmp_path: Path
) -> None:
    (tmp_path / "revcol_nlp").symlink_to(USER_DIR)
    (tmp_path / "another_name").symlink_to(USER_DIR)
    (tmp_path / "parent").symlink_to(ROOT)
    user_dir, folder = {
        "relative": ("revcol_nlp", ROOT),
        "slash": (f"{USER_DIR}/", tmp_path),
        "link": ("revcol_nlp", tmp_path),
        "named link": ("another_name", tmp_path),
        "link to parent": ("parent/revcol_nlp", tmp_path),
    }[kind]
    statements = [*([] if first is None else [first]), by_option(user_dir)]
    assert outcome(statements, folder) == usual


def test_the_columns_and_vision_change_nothing_in_fairseq(tmp_path: Path) -> None:
    found = outcome([COLUMNS, VISION], tmp_path)
    assert found == {"is registered": False, "patches": [], "replaced": []}


@pytest.mark.parametrize(
    "orders",
    [
        [
            [COLUMNS, by_option(USER_DIR), COMMANDS, RUN_A_COMMAND],
            [PLUGIN, COMMANDS, RUN_A_COMMAND],
        ],
        pytest.param(
            [
                [VISION, COMMANDS, by_hub(USER_DIR)],
                [VISION, by_option(USER_DIR), COMMANDS, RUN_A_COMMAND],
                [by_hub(USER_DIR), COMMANDS, COLUMNS, RUN_A_COMMAND],
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["columns and plugin first", "vision and hub first"],
)
def test_every_order_gives_the_model_and_the_same_patches(
    orders: list[list[str]], usual: dict[str, Any]
) -> None:
    """In processes that have not imported fairseq."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.import_orders", json.dumps(orders)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert found == [usual] * len(orders), done.stderr[-3000:]


def run_interactive_as_module() -> None:
    """``python -m fairseq_cli.interactive``, after the plugin was imported."""
    runpy.run_module("fairseq_cli.interactive", run_name="__main__", alter_sys=True)
    sys.exit(0)


def test_a_command_that_runs_as_a_module_is_patched(
    trained: Path, toy_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("\nw1 w2\n")
    ended = run_forked(
        *("fairseq-interactive", toy_data, "--user-dir", USER_DIR, "--cpu", "--beam", "1"),
        *("--path", trained / "checkpoint_last.pt", "--input", tmp_path / "text"),
        folder=tmp_path,
        prepare=run_interactive_as_module,
    )
    assert ended.status == 0, ended.output[-3000:]
    assert "line 1 is empty: its translation H-0 is empty\n" in ended.output
