"""scripts/wmt/train.sh and the configurations of scripts/wmt/table10: models, schedule, tokens."""

import contextlib
import gzip
import html
import io
import json
import os
import re
import stat
import subprocess
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import fairseq_cli.hydra_train
import fairseq_cli.train
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.dataclass.initialize import hydra_init
from fairseq.models import build_model
from fairseq.utils import import_user_module
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scripts.translation import follow_training
from tests.helpers.fairseq_commands import USER_DIR, RunFairseq
from tests.helpers.fork_server import forking
from tests.helpers.scripts import SCRIPTS, assert_refused, run_script
from tests.helpers.wmt_mirror import CORPORA, write_mirror

TABLE_10 = SCRIPTS / "wmt/table10"
ROWS = {  # parameters in millions, with the entries of the joined dictionary
    "revcol_en_de": (200.6, 32768),
    "revcol_en_fr": (209.6, 44512),
    "transformer_big_en_de": (209.9, 32768),
    "transformer_big_en_fr": (221.9, 44512),
}
STEPS = {"en-de": (28672, 300000, 0.3), "en-fr": (86016, 200000, 0.1)}


# The configurations ------------------------------------------------------------------------------


def load_configuration(name: str, entries: int) -> tuple[dict[str, Any], int]:
    """Load the configuration that ``fairseq-hydra-train`` uses, and count its parameters."""
    hydra_init(name)
    with initialize_config_dir(str(TABLE_10), version_base="1.1"):
        cfg = compose(name, ["task.data=DATA", f"common.user_dir={USER_DIR}"])
    # The same steps as in fairseq_cli.hydra_train and fairseq_cli.train.
    fairseq_cli.hydra_train.add_defaults(cfg)
    import_user_module(cfg.common)
    fairseq_cli.train.add_defaults(cfg)
    joined = Dictionary()
    for n in range(entries - len(joined)):
        joined.add_symbol(f"w{n}")
    with torch.device("meta"):
        task = Namespace(source_dictionary=joined, target_dictionary=joined)
        model = build_model(cfg.model, task)
    values = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    return values, sum(parameter.numel() for parameter in model.parameters())


def test_every_configuration_is_a_row_of_table_10() -> None:
    rows = {path.stem for path in TABLE_10.glob("*_en_*.yaml")}
    assert rows == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_configurations_are_the_rows_of_table_10(name: str) -> None:
    millions, entries = ROWS[name]
    with ProcessPoolExecutor(1, forking) as process:  # it has not loaded the plugin
        cfg, parameters = process.submit(load_configuration, name, entries).result()
    _, steps, dropout = STEPS[name[-5:].replace("_", "-")]
    assert round(parameters / 1e6, 1) == millions
    assert cfg["model"]["dropout"] == dropout and cfg["model"]["share_all_embeddings"]
    assert cfg["lr_scheduler"]["_name"] == "inverse_sqrt"
    assert cfg["lr_scheduler"]["warmup_updates"] == 4000
    assert cfg["lr_scheduler"]["warmup_init_lr"] == 1e-7
    assert cfg["optimizer"]["_name"] == "adam" and cfg["optimizer"]["weight_decay"] == 0.0
    assert cfg["optimizer"]["adam_betas"] == "(0.9,0.98)"
    assert cfg["optimization"]["lr"] == [0.0005]
    assert cfg["optimization"]["max_update"] == steps and cfg["optimization"]["clip_norm"] == 0.0
    assert cfg["criterion"]["_name"] == "label_smoothed_cross_entropy"
    assert cfg["criterion"]["label_smoothing"] == 0.1
    assert cfg["checkpoint"]["keep_interval_updates"] == 10


# The script, with a Python that trains nothing --------------------------------------------------


@pytest.fixture
def pretend(tmp_path: Path):
    """``pretend(*args, gpus=8, memory=16)`` runs scripts/wmt/train.sh with a made-up Python.

    This Python reports so many GPUs with so many GiB each, and records the training command instead
    of running it. Returns the ended process and the words of that command.
    """
    data = tmp_path / "bin"
    data.mkdir()
    for language in ("de", "fr"):
        (data / f"dict.{language}.txt").touch()
    python, words = tmp_path / "python", tmp_path / "words"
    python.write_text(
        '#!/usr/bin/env bash\n[[ $1 != - ]] || echo "$GPUS $MEMORY"\n'
        f'[[ "$*" != *hydra_train* ]] || printf "%s\\n" "$@" >{words}\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def pretended(
        *args: object, gpus: int = 8, memory: int = 16, **environment: str
    ) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        words.write_text("")
        done = subprocess.run(
            ["bash", SCRIPTS / "wmt/train.sh", *map(str, args)]
            + (["--data", str(data)] if len(args) > 1 else []),
            env=os.environ
            | {"PYTHON": str(python), "GPUS": str(gpus), "MEMORY": str(memory)}
            | environment,
            capture_output=True,
            text=True,
        )
        return done, words.read_text().splitlines()

    return pretended


def find_value(words: list[str], name: str) -> str:
    """Find the value of an override in a training command."""
    (found,) = [word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}=")]
    return found


@pytest.mark.parametrize("memory", [11, 16, 80])
@pytest.mark.parametrize(("devices", "nodes"), [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (1, 4)])
@pytest.mark.parametrize("pair", STEPS)
def test_a_step_is_the_papers_on_any_devices(
    pretend, pair: str, devices: int, nodes: int, memory: int
) -> None:
    several = ("--nodes", nodes, "--node-rank", nodes - 1, "--master", "first:29500")
    _, words = pretend(pair, "revcol", *(several if nodes > 1 else ()), gpus=devices, memory=memory)
    tokens = int(find_value(words, "dataset.max_tokens"))
    times = int(find_value(words, "optimization.update_freq").strip("[]"))
    assert devices * nodes * tokens * times == STEPS[pair][0]
    assert 1024 <= tokens <= 3584 * memory / 16
    assert tokens * 2 > min(3584 * memory / 16, STEPS[pair][0] / devices / nodes), (
        "a larger microbatch would fit"
    )
    assert int(find_value(words, "optimization.max_update")) == STEPS[pair][1]
    assert words[words.index("--config-name") + 1] == f"revcol_{pair.replace('-', '_')}"
    assert "common.fp16=true" in words
    processes = (
        find_value(words, "distributed_training.distributed_world_size")
        if (devices * nodes == 1)
        else words[words.index("--nproc_per_node") + 1]
    )
    assert int(processes) == devices
    if nodes > 1:
        launch = " ".join(words)
        assert f"--nnodes {nodes} --node_rank {nodes - 1} --master_addr first" in launch
        assert "--master_port 29500" in launch


def test_a_resumed_training_keeps_its_microbatches(pretend, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    pretend("en-de", "revcol", *out, gpus=8, memory=16)
    (tmp_path / "out/finished").unlink()
    _, words = pretend("en-de", "revcol", *out, gpus=4, memory=80)
    (tmp_path / "out/finished").unlink()
    assert find_value(words, "dataset.max_tokens") == "3584"
    assert find_value(words, "optimization.update_freq") == "[2]"
    refused, _ = pretend("en-de", "revcol", *out, gpus=8, memory=8)
    assert_refused(
        refused, "trained with microbatches of 3584 tokens", "--max-tokens 1792 -- checkpoint"
    )
    _, words = pretend("en-de", "revcol", *out, "--max-tokens", 1792, gpus=8, memory=8)
    assert find_value(words, "dataset.max_tokens") == "1792"


def test_a_card_sold_as_16_gb_takes_3584_tokens(tmp_path: Path) -> None:
    probe = (SCRIPTS / "wmt/train.sh").read_text().split("<<'PYTHON'\n")[1].split("PYTHON\n")[0]
    card = SimpleNamespace(total_memory=16945512448)
    with (
        mock.patch("torch.cuda.device_count", return_value=8),
        mock.patch("torch.cuda.get_device_properties", return_value=card),
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        exec(probe)
    assert printed.getvalue() == "8 16\n"


def test_slurm_sets_the_number_of_the_machine(pretend) -> None:
    several = ("--nodes", 2, "--master", "first:29500")
    _, words = pretend("en-fr", "transformer-big", *several, SLURM_NODEID="1")
    assert words[words.index("--node_rank") + 1] == "1"
    assert words[words.index("--config-name") + 1] == "transformer_big_en_fr"


def test_the_script_overrides_only_options_of_data_and_devices(pretend) -> None:
    _, words = pretend("en-de", "revcol")
    changed = {word.partition("=")[0] for word in words if "=" in word}
    assert changed == {
        *("hydra.run.dir", "hydra.job.chdir", "common.user_dir", "task.data"),
        *("dataset.max_tokens", "optimization.update_freq", "optimization.max_update"),
        *("checkpoint.save_dir", "common.log_file", "common.tensorboard_logdir"),
        *("common.fp16", "dataset.num_workers"),
    }


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "the first argument must be en-de or en-fr, not ''"),
        (("en-de", "big"), "the second argument must be revcol or transformer-big, not 'big'"),
        (
            ("en-de", "revcol", "--devices", 3),
            "3 devices cannot share a step of 28672 tokens evenly",
        ),
        (("en-de", "revcol", "--devices", 16), "--devices asks for 16, and there are 8 GPUs"),
        (("en-de", "revcol", "--max-tokens", 300), "too small for the longest sentences"),
        (("en-de", "revcol", "--nodes", 2), "--nodes above 1 needs --master HOST:PORT, not ''"),
        (("en-de", "revcol", "--master", "a:1"), "--master has no effect without --nodes"),
        (
            ("en-de", "revcol", "--nodes", 2, "--master", "a:1", "--node-rank", 2),
            "--node-rank must be a number from 0 to 1, not '2'",
        ),
        (("en-de", "revcol", "--steps", 2), "unknown option '--steps'"),
    ],
)
def test_bad_options_get_one_sentence(pretend, args: tuple, sentence: str) -> None:
    assert_refused(pretend(*args)[0], sentence)


def test_missing_data_is_named_with_the_script_that_makes_it(tmp_path: Path) -> None:
    done = run_script("wmt/train.sh", "en-de", "revcol", "--data", tmp_path)
    assert_refused(done, str(tmp_path), "scripts/wmt/prepare_en_de.sh")


def test_the_remaining_time_is_printed_after_the_first_updates_and_validations() -> None:
    inner = '[fairseq][INFO] - {{"epoch": 1, "loss": "9.1", "ppl": "8", "ups": "2.5", "wps": "70", '
    inner += '"num_updates": "{}", "lr": "1e-07"}}\n'
    valid = '{"epoch": 1, "valid_loss": "7.0", "valid_ppl": "128", "valid_num_updates": "2000"}'
    lines = [inner.format(100)] * 2 + ["begin\n", inner.format(200), valid]
    printed = list(follow_training.summarise_training(lines, 300_000))
    assert [line.partition(":")[0] for line in printed] == [
        "update 100  loss 9.1  perplexity 8  learning rate 1e-07  70 words/s",
        "299,900 updates remain",
        "update 200  loss 9.1  perplexity 8  learning rate 1e-07  70 words/s",
        "update 2,000  valid loss 7.0  perplexity 128",
        "298,000 updates remain",
    ]
    assert "1 day, 9:19:20" in printed[1]  # 299,900 / 2.5 seconds


# From a mirror to BLEU ---------------------------------------------------------------------------

TINY = {
    "revcol": [
        f"+model.{side}_{name}"
        for side in ("encoder", "decoder")
        for name in ("embed_dim=32", "ffn_embed_dim=64", "attention_heads=4")
    ]
    + ["+model.decoder_layers=1"],
    "transformer-big": [
        f"{plus}model.{side}.{name}"
        for side in ("encoder", "decoder")
        for plus, name in (
            *(("", "embed_dim=32"), ("", "ffn_embed_dim=64")),
            *(("", "attention_heads=4"), ("+", "layers=1")),
        )
    ],
}


def read_sample(folder: str, name: str) -> list[str]:
    """Read the lines of a file of real text, without escapes."""
    path = Path(os.environ[folder], name)
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return [html.unescape(line.rstrip("\n")) for line in file]


def write_sample_mirror(folder: Path, language: str) -> None:
    """Write a mirror with real text: 10,000 pairs of the WMT sample (En-De) or Multi30k (En-Fr)."""
    if language == "de":
        train, valid = (
            [read_sample("REVCOL_WMT_SAMPLE", f"{s}.{lang}.gz") for lang in ("en", "de")]
            for s in ("train", "valid")
        )
    else:
        train, valid = (
            [read_sample("REVCOL_MULTI30K", f"{s}.{lang}.gz") for lang in ("en", "fr")]
            for s in ("train", "val")
        )
    test = [side[-60:] for side in train]
    corpora = [row for row in CORPORA if row[2] == language]
    rows = []
    for number, corpus in enumerate(corpora):
        part = slice(number, 10_000 - 60, len(corpora))
        rows.append((*corpus, *("".join(f"{s}\n" for s in side[part]).encode() for side in train)))
    write_mirror(
        folder,
        rows,
        [
            ("newstest2013", language, *(side[:50] for side in valid)),
            ("newstest2014", language, *test),
        ],
    )


@pytest.mark.parametrize(
    ("language", "prepare", "folder"),
    [
        ("de", "wmt/prepare_en_de.sh", "REVCOL_WMT_SAMPLE"),
        pytest.param(*("fr", "wmt/prepare_en_fr.sh", "REVCOL_MULTI30K"), marks=pytest.mark.slow),
    ],
)
def test_from_a_mirror_to_bleu_and_a_comparison(
    language: str, prepare: str, folder: str, tmp_path: Path
) -> None:
    if folder not in os.environ:
        pytest.skip(f"{folder} names no folder with real text")
    pair = f"en-{language}"
    write_sample_mirror(tmp_path / "mirror", language)
    done = run_script(
        *(prepare, "--mirror", tmp_path / "mirror", "--archives", tmp_path / "archives.txt"),
        *("--out", tmp_path / "da ta", "--workers", 2, "--merges", 1000),
    )
    assert done.returncode == 0, done.stderr
    for model, overrides in TINY.items():
        done = run_script(
            *("wmt/train.sh", pair, model, "--data", tmp_path / "da ta/bin", "--devices", 2),
            *("--max-tokens", 4000, "--max-update", 3, "--", "checkpoint.save_interval_updates=1"),
            *("common.log_interval=1", "lr_scheduler.warmup_updates=1", *overrides),
        )
        assert done.returncode == 0, done.stderr
        tokens = STEPS[pair][0]
        steps = f"{tokens} tokens per step: 2 devices x {tokens // 7168} microbatches x 3584 tokens"
        assert steps in done.stderr
        assert re.search(r"1 updates remain: \d", done.stdout)
        out = tmp_path / "da ta" / model
        checkpoints = {path.name for path in (out / "checkpoints").iterdir()}
        assert {"checkpoint_1_1.pt", "checkpoint_1_3.pt", "checkpoint_average.pt"} <= checkpoints
        assert list((out / "tensorboard").rglob("events*"))
        log = (out / "train.log").read_text().splitlines()
        records = follow_training.parse_records(log)
        losses = [float(r["loss"]) for r in records if "loss" in r]
        assert len(losses) == 3 and all(0 < loss < 12 for loss in losses)
        scores = json.loads((out / "test/scores.json").read_text())
        assert scores["beam"] == 4 and scores["lenpen"] == 0.6
    names = [f"{model}={tmp_path / 'da ta' / model / 'test'}" for model in TINY]
    done = run_script("translation/compare.py", *names)
    # Models that have learnt nothing may write no capital letters and are then not comparable.
    assert "p = " in done.stdout or "only one of revcol and transformer-big" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_full_size_models_learn_a_batch_by_heart(
    name: str, tmp_path: Path, run_fairseq: RunFairseq
) -> None:
    if "REVCOL_WMT_SAMPLE" not in os.environ:
        pytest.skip("REVCOL_WMT_SAMPLE names no folder with real text")
    millions, entries = ROWS[name]
    known = Dictionary()
    for language in ("en", "de"):
        text = read_sample("REVCOL_WMT_SAMPLE", f"train.{language}.gz")
        (tmp_path / f"few.{language}").write_text("".join(f"{line}\n" for line in text[:12]))
        for line in text:
            known.encode_line(line)
    for n in range(entries - len(known)):
        known.add_symbol(f"filler{n}")
    known.finalize(nwords=entries, padding_factor=1)
    known.save(str(tmp_path / "dict.txt"))
    run_fairseq(
        *("preprocess", "--source-lang", "en", "--target-lang", "de", "--joined-dictionary"),
        *("--srcdict", tmp_path / "dict.txt", "--destdir", tmp_path / "bin"),
        *("--trainpref", tmp_path / "few", "--validpref", tmp_path / "few"),
    )
    done = run_fairseq(
        *("hydra_train", "--config-dir", TABLE_10, "--config-name", name),
        *(f"hydra.run.dir={tmp_path}", f"common.user_dir={USER_DIR}", f"task.data={tmp_path}/bin"),
        *("common.cpu=true", "dataset.num_workers=0", "dataset.max_tokens=2000"),
        *("optimization.max_update=4", "common.log_interval=1", "lr_scheduler.warmup_updates=1"),
        *("checkpoint.no_save=true", "dataset.disable_validation=true"),
        f"common.log_file={tmp_path}/log",
    )
    records = follow_training.parse_records((tmp_path / "log").read_text().splitlines())
    losses = [float(record["loss"]) for record in records if "loss" in record]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.5
    parameters = re.search(r"num. shared model params: ([\d,]+)", done.stdout + done.stderr)[1]
    assert round(int(parameters.replace(",", "")) / 1e6, 1) == millions
