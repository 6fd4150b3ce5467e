"""train_wmt.sh and the configurations of scripts/wmt/table10: models, schedule and tokens."""

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
from tests.conftest import USER_DIR, RunFairseq, forking
from tests.helpers.scripts import SCRIPTS, assert_refused, run
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


def configured(name: str, entries: int) -> tuple[dict[str, Any], int]:
    """What ``fairseq-hydra-train --config-name NAME`` trains with, and its model's parameters."""
    hydra_init(name)
    with initialize_config_dir(str(TABLE_10), version_base="1.1"):
        cfg = compose(name, ["task.data=DATA", f"common.user_dir={USER_DIR}"])
    # As fairseq_cli.hydra_train and then fairseq_cli.train do.
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


def test_every_configuration_is_a_row() -> None:
    rows = {path.stem for path in TABLE_10.glob("*_en_*.yaml")}
    assert rows == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_configurations_are_the_rows_of_table_10(name: str) -> None:
    millions, entries = ROWS[name]
    with ProcessPoolExecutor(1, forking) as process:  # one that has not loaded the plugin
        cfg, parameters = process.submit(configured, name, entries).result()
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


# The script, with a Python that starts nothing ---------------------------------------------------


@pytest.fixture
def pretend(tmp_path: Path):
    """Runs train_wmt.sh with a Python that says how many GPUs there are and how much memory each
    has, and writes down what it should start; returns how the script ended and those words."""
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


def value(words: list[str], name: str) -> str:
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
    tokens = int(value(words, "dataset.max_tokens"))
    times = int(value(words, "optimization.update_freq").strip("[]"))
    assert devices * nodes * tokens * times == STEPS[pair][0]
    assert 1024 <= tokens <= 3584 * memory / 16
    assert tokens * 2 > min(3584 * memory / 16, STEPS[pair][0] / devices / nodes), "could be more"
    assert int(value(words, "optimization.max_update")) == STEPS[pair][1]
    assert words[words.index("--config-name") + 1] == f"revcol_{pair.replace('-', '_')}"
    assert "common.fp16=true" in words
    one_of_many = (
        value(words, "distributed_training.distributed_world_size")
        if (devices * nodes == 1)
        else words[words.index("--nproc_per_node") + 1]
    )
    assert int(one_of_many) == devices
    if nodes > 1:
        launch = " ".join(words)
        assert f"--nnodes {nodes} --node_rank {nodes - 1} --master_addr first" in launch
        assert "--master_port 29500" in launch


def test_a_training_goes_on_with_its_batches(pretend, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    pretend("en-de", "revcol", *out, gpus=8, memory=16)
    (tmp_path / "out/finished").unlink()
    _, words = pretend("en-de", "revcol", *out, gpus=4, memory=80)
    (tmp_path / "out/finished").unlink()
    assert value(words, "dataset.max_tokens") == "3584"
    assert value(words, "optimization.update_freq") == "[2]"
    refused, _ = pretend("en-de", "revcol", *out, gpus=8, memory=8)
    assert_refused(refused, "trained with 3584 tokens at once", "--max-tokens 1792 -- checkpoint")
    _, words = pretend("en-de", "revcol", *out, "--max-tokens", 1792, gpus=8, memory=8)
    assert value(words, "dataset.max_tokens") == "1792"


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


def test_slurm_tells_which_machine_this_is(pretend) -> None:
    several = ("--nodes", 2, "--master", "first:29500")
    _, words = pretend("en-fr", "transformer-big", *several, SLURM_NODEID="1")
    assert words[words.index("--node_rank") + 1] == "1"
    assert words[words.index("--config-name") + 1] == "transformer_big_en_fr"


def test_the_script_changes_nothing_of_the_configuration_but_where_it_runs(pretend) -> None:
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
        ((), "the first argument is en-de or en-fr, not ''"),
        (("en-de", "big"), "the second argument is revcol or transformer-big, not 'big'"),
        (("en-de", "revcol", "--devices", 3), "cannot be shared evenly by 3 devices"),
        (("en-de", "revcol", "--devices", 16), "--devices asks for 16, and there are 8 GPUs"),
        (("en-de", "revcol", "--max-tokens", 300), "are too few for the longest sentences"),
        (("en-de", "revcol", "--nodes", 2), "several machines need --master HOST:PORT, not ''"),
        (("en-de", "revcol", "--master", "a:1"), "--master has no use without --nodes"),
        (
            ("en-de", "revcol", "--nodes", 2, "--master", "a:1", "--node-rank", 2),
            "--node-rank is a number from 0 to 1, not '2'",
        ),
        (("en-de", "revcol", "--steps", 2), "unknown option '--steps'"),
    ],
)
def test_bad_options_get_one_sentence(pretend, args: tuple, sentence: str) -> None:
    assert_refused(pretend(*args)[0], sentence)


def test_missing_data_is_named(tmp_path: Path) -> None:
    assert_refused(run("wmt/train.sh", "en-de", "revcol", "--data", tmp_path), str(tmp_path))


def test_the_expected_time_is_told_after_the_first_updates() -> None:
    follow = follow_training.follow
    inner = '[fairseq][INFO] - {{"epoch": 1, "loss": "9.1", "ppl": "8", "ups": "2.5", "wps": "70", '
    inner += '"num_updates": "{}", "lr": "1e-07"}}\n'
    valid = '{"epoch": 1, "valid_loss": "7.0", "valid_ppl": "128", "valid_num_updates": "2000"}'
    lines = [inner.format(100)] * 2 + ["begin\n", inner.format(200), valid]
    told = list(follow(lines, 300_000))
    assert [line.partition(":")[0] for line in told] == [
        "update 100  loss 9.1  perplexity 8  learning rate 1e-07  70 words/s",
        "299,900 updates remain",
        "update 200  loss 9.1  perplexity 8  learning rate 1e-07  70 words/s",
        "update 2,000  valid loss 7.0  perplexity 128",
        "298,000 updates remain",
    ]
    assert "1 day, 9:19:20" in told[1]  # 299,900 / 2.5 seconds


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


def lines(folder: str, name: str) -> list[str]:
    path = Path(os.environ[folder], name)
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        return [html.unescape(line.rstrip("\n")) for line in file]


def sample_mirror(folder: Path, language: str) -> None:
    """A mirror with real text: the WMT sample's 10,000 pairs (En-De), or Multi30k's (En-Fr)."""
    if language == "de":
        train, valid = (
            [lines("REVCOL_WMT_SAMPLE", f"{s}.{lang}.gz") for lang in ("en", "de")]
            for s in ("train", "valid")
        )
    else:
        train, valid = (
            [lines("REVCOL_MULTI30K", f"{s}.{lang}.gz") for lang in ("en", "fr")]
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
def test_from_a_mirror_to_bleu(language: str, prepare: str, folder: str, tmp_path: Path) -> None:
    if folder not in os.environ:
        pytest.skip(f"{folder} names no folder with real text")
    pair = f"en-{language}"
    sample_mirror(tmp_path / "mirror", language)
    done = run(
        *(prepare, "--mirror", tmp_path / "mirror", "--archives", tmp_path / "archives.txt"),
        *("--out", tmp_path / "da ta", "--workers", 2, "--merges", 1000),
    )
    assert done.returncode == 0, done.stderr
    for model, overrides in TINY.items():
        done = run(
            *("wmt/train.sh", pair, model, "--data", tmp_path / "da ta/bin", "--devices", 2),
            *("--max-tokens", 4000, "--max-update", 3, "--", "checkpoint.save_interval_updates=1"),
            *("common.log_interval=1", "lr_scheduler.warmup_updates=1", *overrides),
        )
        assert done.returncode == 0, done.stderr
        tokens = STEPS[pair][0]
        assert f"{tokens} tokens a step: 2 devices x 3584 tokens x {tokens // 7168}" in done.stderr
        assert re.search(r"1 updates remain: \d", done.stdout)
        out = tmp_path / "da ta" / model
        checkpoints = {path.name for path in (out / "checkpoints").iterdir()}
        assert {"checkpoint_1_1.pt", "checkpoint_1_3.pt", "checkpoint_average.pt"} <= checkpoints
        assert list((out / "tensorboard").rglob("events*"))
        log = (out / "train.log").read_text().splitlines()
        records = follow_training.records(log)
        losses = [float(r["loss"]) for r in records if "loss" in r]
        assert len(losses) == 3 and all(0 < loss < 12 for loss in losses)
        scores = json.loads((out / "test/scores.json").read_text())
        assert scores["beam"] == 4 and scores["lenpen"] == 0.6
    names = [f"{model}={tmp_path / 'da ta' / model / 'test'}" for model in TINY]
    done = run("translation/compare.py", *names)
    # Models that have learnt nothing may write no capital letter, which is not compared.
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
        text = lines("REVCOL_WMT_SAMPLE", f"train.{language}.gz")
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
    records = follow_training.records((tmp_path / "log").read_text().splitlines())
    losses = [float(record["loss"]) for record in records if "loss" in record]
    assert len(losses) == 4 and losses[-1] < losses[0] - 0.5
    parameters = re.search(r"num. shared model params: ([\d,]+)", done.stdout + done.stderr)[1]
    assert round(int(parameters.replace(",", "")) / 1e6, 1) == millions
