"""A training that is killed at any moment goes on with the same command, and ends as if nothing
had happened: bit-identical parameters and optimiser state, and no file left over.

The moments are random, from a seed. By default one of each kind is tried: in a step, in a write,
in validation.
"""

import json
import random
import signal
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from revcol_nlp.checkpoints.contents import is_whole
from tests.conftest import TINY_MODEL, TRAINING
from tests.helpers.forked import Ended, Forked
from tests.helpers.images import EVERYTHING, TINY, assert_same_run, make_images
from tests.helpers.kills import STEP, VALIDATION, WRITE, Kill, Watch, random_kills
from tests.plugin.test_patches import assert_same_state

KILLS, BY_DEFAULT, BY_THE_CLOCK = 15, 3, 5


class Training:
    """One command, of which every call gets an output folder of its own.

    Args:
        command: what `Forked` takes.
        option: names the output folder.
        folder: of the run that nothing disturbs.
    """

    def __init__(self, command: str, *args: object, option: str, folder: Path):
        self.command, self.args, self.option, self.folder = command, args, option, folder
        counts = folder / "counts"
        ended = self.run(folder, Watch(counts))
        assert ended.status == 0, ended.output[-3000:]
        self.events = json.loads(counts.read_text())
        self.kills = list(islice(random_kills(random.Random(0), self.events), KILLS))

    def start(self, folder: Path, prepare: Callable[[], None] | None = None) -> Forked:
        command = (self.command, *self.args, self.option, folder / "run")
        return Forked(*command, folder=folder, prepare=prepare)

    def run(self, folder: Path, prepare: Callable[[], None] | None = None) -> Ended:
        return self.start(folder, prepare).end()


@pytest.fixture(scope="module")
def translation(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """fairseq-train: 2 epochs of 5 updates, a checkpoint each fourth, dropout on."""
    return Training(
        *("fairseq-train", toy_data, *TINY_MODEL, *TRAINING, "--encoder-columns", "3"),
        *("--dropout", "0.1", "--encoder-drop-path", "0.1", "--max-epoch", "2"),
        *("--save-interval-updates", "4"),
        option="--save-dir",
        folder=tmp_path_factory.mktemp("translation"),
    )


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """vision.train: 2 epochs of 5 updates, a recovery file each second, everything on."""
    return Training(
        *("vision.train", make_images(tmp_path_factory.mktemp("images")), *TINY),
        *("--model", "test_revcol_vit", "--model-kwargs", "proj_drop_rate=0.1", *EVERYTHING),
        *("--epochs", 2),
        option="--output",
        folder=tmp_path_factory.mktemp("vision"),
    )


@pytest.fixture(params=["translation", "vision"])
def training(request: pytest.FixtureRequest) -> Training:
    return request.getfixturevalue(request.param)


def names(folder: Path) -> set[str]:
    """Of the files in it; every process of vision.train leaves TensorBoard a file of its own."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("events.")}


def assert_goes_on(training: Training, folder: Path) -> None:
    ended = training.run(folder)
    assert ended.status == 0, ended.output[-3000:]
    run, undisturbed = folder / "run", training.folder / "run"
    assert names(run) == names(undisturbed)
    if training.command == "vision.train":
        assert_same_run(run, undisturbed)
        return
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        assert_same_state(run / name, undisturbed / name)


@pytest.mark.parametrize(
    "number",
    [pytest.param(i, marks=() if i < BY_DEFAULT else pytest.mark.slow) for i in range(KILLS)],
)
def test_a_killed_training_goes_on_bit_for_bit(
    training: Training, tmp_path: Path, number: int
) -> None:
    killed = training.run(tmp_path, Watch(kill=training.kills[number]))
    assert killed.status == -signal.SIGKILL, killed.output[-3000:]
    assert_goes_on(training, tmp_path)


@pytest.mark.slow
def test_a_training_killed_again_and_again_goes_on_bit_for_bit(
    training: Training, tmp_path: Path
) -> None:
    """By the clock, from start-up on; where the run was faster than the clock, another is begun."""
    chance, killed, folder = random.Random(1), 0, tmp_path
    while killed < BY_THE_CLOCK:
        running = training.start(folder)
        running.process.join(chance.uniform(0, training.events["seconds"]))
        running.process.kill()
        if running.end().status == -signal.SIGKILL:
            killed += 1
        else:
            assert_goes_on(training, folder)
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
    assert_goes_on(training, folder)


@pytest.mark.parametrize(
    "kind", [STEP, *(pytest.param(k, marks=pytest.mark.slow) for k in (WRITE, VALIDATION))]
)
def test_an_interrupted_fairseq_train_goes_on_bit_for_bit(
    translation: Training, tmp_path: Path, kind: str
) -> None:
    moment = Kill(kind, translation.events[kind] // 2, 0.5, signal.SIGINT)
    interrupted = translation.run(tmp_path, Watch(kill=moment))
    assert interrupted.status > 0
    assert interrupted.last_line == "KeyboardInterrupt"
    checkpoints = list((tmp_path / "run").glob("checkpoint*.pt"))
    assert checkpoints and all(map(is_whole, checkpoints))
    assert_goes_on(translation, tmp_path)
