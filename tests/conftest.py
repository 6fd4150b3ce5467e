"""What tests share: a tiny corpus, a model, a way to run fairseq's commands, archives of WMT."""

import importlib
import itertools
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.wmt_mirror import write_made_up_mirror

USER_DIR = Path(__file__).parent.parent / "revcol_nlp"

TINY_MODEL = (
    *("--user-dir", USER_DIR, "--arch", "revcol_transformer_tiny", "--share-all-embeddings"),
    *("--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32"),
    *("--encoder-attention-heads", "2", "--decoder-layers", "1"),
    *("--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "32"),
    *("--decoder-attention-heads", "2"),
)

TRAINING = (
    *("--optimizer", "adam", "--lr", "0.005", "--criterion", "label_smoothed_cross_entropy"),
    *("--max-tokens", "400", "--num-workers", "0", "--seed", "7", "--no-progress-bar", "--cpu"),
)

# What takes seconds to import, once for all processes that tests fork; the plugin is not among it,
# nor what would import a part of it, so that each fairseq command loads it as for a user.
forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(
    [
        *("fairseq_cli.train", "fairseq_cli.hydra_train", "fairseq_cli.generate"),
        *("fairseq_cli.preprocess", "fairseq_cli.interactive", "fairseq_cli.validate"),
        *("timm.data", "timm.task", "torch.distributed.fsdp"),
    ]
)

RunFairseq = Callable[..., subprocess.CompletedProcess[str]]


def _command(
    module: str, arguments: list[str], environment: dict[str, str], stdin: str, log: str
) -> None:
    """What the console script of a fairseq command does, in a process forked for it alone."""
    for descriptor, (name, mode) in enumerate(
        ((stdin, "r"), (f"{log}.out", "w"), (f"{log}.err", "w"))
    ):
        with open(name, mode) as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdin = os.fdopen(0)
    torch.set_num_threads(1)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    importlib.import_module(module).cli_main()


@pytest.fixture(scope="session")
def run_fairseq(tmp_path_factory: pytest.TempPathFactory) -> RunFairseq:
    """``run_fairseq(command, *args, check=True, processes=1, input=None, **environment)`` runs
    ``fairseq_cli.<command>``, with torchrun where there are several processes.

    One process is forked from one that has imported fairseq, which takes seconds, and no plugin.
    Raises RuntimeError with the end of the output where the command fails, unless ``check=False``.
    """
    folder = tmp_path_factory.mktemp("commands")
    numbers = itertools.count()

    def run_forked(
        module: str, args: list[str], environment: dict[str, str], input: str | None
    ) -> subprocess.CompletedProcess[str]:
        log, stdin = str(folder / str(next(numbers))), os.devnull
        if input is not None:
            stdin = f"{log}.in"
            Path(stdin).write_text(input)
        process = forking.Process(target=_command, args=(module, args, environment, stdin, log))
        process.start()
        process.join()
        out, err = (Path(f"{log}.{name}").read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess([module, *args], process.exitcode, out, err)

    def run_torchrun(
        module: str, args: list[str], environment: dict[str, str], processes: int
    ) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return subprocess.run(
            [*launcher, "--nproc_per_node", str(processes), "-m", module, *args],
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            capture_output=True,
            text=True,
        )

    def run(
        command: str,
        *args: object,
        check: bool = True,
        processes: int = 1,
        input: str | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        module, arguments = f"fairseq_cli.{command}", list(map(str, args))
        if processes == 1:
            done = run_forked(module, arguments, environment, input)
        else:
            done = run_torchrun(module, arguments, environment, processes)
        if check and done.returncode != 0:
            raise RuntimeError(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    return run


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory, run_fairseq: RunFairseq) -> Path:
    """A folder of 200 training, 20 validation and 60 test pairs, binarised, one joined dictionary.

    The text is in its parent folder: ``train.src``, ``train.tgt`` and so on.
    """
    folder = tmp_path_factory.mktemp("toy")
    chance = random.Random(0)
    words = [f"w{i}" for i in range(30)]
    for split, size in {"train": 200, "valid": 20, "test": 60}.items():
        source = [chance.choices(words, k=chance.randint(2, 12)) for _ in range(size)]
        target = [sentence[::-1] for sentence in source]
        for language, sentences in {"src": source, "tgt": target}.items():
            text = "".join(" ".join(sentence) + "\n" for sentence in sentences)
            (folder / f"{split}.{language}").write_text(text)
    run_fairseq(
        "preprocess",
        *("--source-lang", "src", "--target-lang", "tgt", "--joined-dictionary"),
        *("--trainpref", folder / "train", "--validpref", folder / "valid"),
        *("--testpref", folder / "test", "--destdir", folder / "data-bin"),
    )
    return folder / "data-bin"


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, toy_data: Path, run_fairseq: RunFairseq
) -> Path:
    """A folder of checkpoints: three epochs of five updates on ``toy_data``, dropout 0.1, with one
    checkpoint per epoch and one each four updates. Tests read it and do not write to it."""
    folder = tmp_path_factory.mktemp("trained")
    run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0.1", "--max-epoch", "3"),
        *("--save-interval-updates", "4", "--save-dir", folder),
    )
    return folder


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made-up archives of WMT; archives.txt beside it lists them. Tests read it and
    do not write to it."""
    folder = tmp_path_factory.mktemp("wmt") / "mirror"
    write_made_up_mirror(folder)
    return folder
