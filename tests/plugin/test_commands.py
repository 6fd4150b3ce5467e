"""Every fairseq command on a RevCol-Transformer, as users call it."""

import json
import re

import pytest
import torch

from revcol_nlp.models import RevColTransformerModel
from tests.helpers.checkpoints import load
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, USER_DIR

GENERATE = ("--user-dir", USER_DIR, "--cpu", "--num-workers", "0", "--beam", "2")


def translations(output: str) -> dict[int, str]:
    return {int(n): text for n, text in re.findall(r"^H-(\d+)\t\S+\t(.*)$", output, re.M)}


def test_training_reversible_or_plain_gives_bit_identical_weights(toy_data, run_fairseq, tmp_path):
    weights = []
    for name, options in {"reversible": (), "plain": ("--encoder-no-reversible",)}.items():
        run_fairseq(
            *("train", toy_data, *TINY_MODEL, *TRAINING, *options, "--max-update", "4"),
            *("--encoder-columns", "4", "--dropout", "0.1", "--attention-dropout", "0.1"),
            *("--encoder-drop-path", "0.1", "--save-dir", tmp_path / name),
        )
        weights.append(load(tmp_path / name / "checkpoint_last.pt")["model"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_generate_and_score_with_one_model_and_with_an_ensemble(
    toy_data, trained, run_fairseq, tmp_path
):
    last, first = trained / "checkpoint_last.pt", trained / "checkpoint1.pt"
    one = run_fairseq("generate", toy_data, *GENERATE, "--path", last).stdout
    two = run_fairseq("generate", toy_data, *GENERATE, "--path", f"{last}:{first}").stdout
    assert translations(one).keys() == translations(two).keys() == set(range(60))
    assert "BLEU4 = " in one
    files = {}
    for letter in "HT":
        files[letter] = tmp_path / letter
        lines = sorted(re.findall(rf"^{letter}-(\d+)\t(.*)$", one, re.M), key=lambda x: int(x[0]))
        files[letter].write_text("".join(line.split("\t")[-1] + "\n" for _, line in lines))
    scored = run_fairseq("score", "--sys", files["H"], "--ref", files["T"]).stdout
    assert re.search(r"BLEU4 = ([\d.]+)", scored)[1] == re.search(r"BLEU4 = ([\d.]+)", one)[1]


def test_validate_gives_the_loss_of_training(toy_data, trained, run_fairseq):
    last = trained / "checkpoint_last.pt"
    out = run_fairseq(
        *("validate", toy_data, "--user-dir", USER_DIR, "--path", last, "--cpu"),
        *("--max-tokens", "400", "--num-workers", "0", "--log-format", "json"),
        *("--task", "translation"),
    )
    loss = float(re.search(r'"valid_loss": "([\d.]+)"', out.stdout + out.stderr)[1])
    assert loss == pytest.approx(load(last)["extra_state"]["val_loss"], abs=2e-3)


def test_interactive_and_hub_translate_alike(toy_data, trained, run_fairseq):
    lines = ["w1 w2 w3", "w4 w5 w6 w7 w8"]
    out = run_fairseq(
        *("interactive", toy_data, *GENERATE, "--path", trained / "checkpoint_last.pt"),
        input="".join(line + "\n" for line in lines),
    ).stdout
    hub = RevColTransformerModel.from_pretrained(
        str(trained), "checkpoint_last.pt", data_name_or_path=str(toy_data), beam=2
    )
    assert list(translations(out).values()) == hub.translate(lines, beam=2)


def test_fine_tuning_starts_from_the_weights_alone(toy_data, trained, run_fairseq, tmp_path):
    run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--max-update", "1", "--lr", "0"),
        *("--finetune-from-model", trained / "checkpoint_last.pt", "--save-dir", tmp_path),
    )
    tuned, start = (load(folder / "checkpoint_last.pt") for folder in (tmp_path, trained))
    assert tuned["optimizer_history"][-1]["num_updates"] == 1
    assert all(torch.equal(tuned["model"][name], start["model"][name]) for name in start["model"])


def test_eval_bleu_update_freq_and_the_decoders_own_options(toy_data, run_fairseq, tmp_path):
    out = run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--max-update", "2", "--update-freq", "2"),
        *("--eval-bleu", "--eval-bleu-args", json.dumps({"beam": 2}), "--log-format", "json"),
        *("--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"),
        *("--checkpoint-activations", "--decoder-layerdrop", "0.1", "--save-dir", tmp_path),
        *("--encoder-learned-pos", "--layernorm-embedding", "--decoder-normalize-before"),
    )
    assert '"valid_bleu"' in out.stdout + out.stderr
    best = tmp_path / "checkpoint_best.pt"
    assert load(best)["extra_state"]["best"] == load(best)["extra_state"]["val_loss"]
    generated = run_fairseq("generate", toy_data, *GENERATE, "--path", best).stdout
    assert len(translations(generated)) == 60


@pytest.mark.parametrize(
    "precision",
    [("--fp16", "--fp16-no-flatten-grads"), ("--memory-efficient-fp16",), ("--amp",)],
    ids=["fp16", "memory-efficient-fp16", "amp"],
)
def test_half_precision_trains(precision, toy_data, run_fairseq, tmp_path):
    out = run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, *precision, "--max-update", "3"),
        *("--encoder-columns", "4", "--save-dir", tmp_path, "--log-format", "json"),
        *("--log-interval", "1"),
    )
    assert '"loss_scale"' in out.stdout + out.stderr
    gamma = load(tmp_path / "checkpoint_last.pt")["model"][
        "encoder.revcol.columns.1.levels.0.gamma"
    ]
    assert gamma.isfinite().all() and (gamma != 0.5).any()


def test_hydra_train_takes_the_options_as_fields(toy_data, run_fairseq, tmp_path):
    model = (
        "{_name:revcol_transformer_tiny,encoder_columns:3,encoder_keep_columns:0,"
        "encoder_embed_dim:16,encoder_ffn_embed_dim:32,encoder_attention_heads:2,"
        "decoder_embed_dim:16,decoder_ffn_embed_dim:32,decoder_attention_heads:2,"
        "decoder_layers:1}"
    )
    command = [
        "hydra_train",
        *(f"common.user_dir={USER_DIR}", "common.cpu=true", "common.bf16=true"),
        *("common.log_format=json", "dataset.max_tokens=400", "dataset.num_workers=0"),
        *("task=translation", f"task.data={toy_data}", "criterion=cross_entropy"),
        *("optimizer=adam", "lr_scheduler=fixed", "optimization.lr=[0.005]"),
        *("optimization.max_update=2", f"checkpoint.save_dir={tmp_path}/ck"),
        *(f"hydra.run.dir={tmp_path}", f"hydra.job.config_name={tmp_path.name}"),
    ]
    run_fairseq(*command, f"+model={model}")
    saved = load(tmp_path / "ck/checkpoint_last.pt")
    assert saved["cfg"]["model"]["encoder_keep_columns"] == 0
    assert "encoder.revcol.columns.2.levels.3.gamma" in saved["model"]
    generated = run_fairseq(
        "generate", toy_data, *GENERATE, "--path", tmp_path / "ck/checkpoint_last.pt"
    )
    assert len(translations(generated.stdout)) == 60

    misspelt = run_fairseq(*command, f"+model={model[:-1]},encoder_colums:2}}", check=False)
    assert misspelt.returncode != 0
    assert re.search(r"Key .encoder_colums. not in", misspelt.stderr)


def test_bad_options_end_in_a_sentence(toy_data, run_fairseq, tmp_path):
    for options, sentence in {
        ("--encoder-columns", "0"): "columns must be at least 1, got 0",
        ("--encoder-layerdrop", "0.1"): "--encoder-layerdrop does not work with columns",
        ("--encoder-fusion", "sideways"): "invalid choice: 'sideways'",
    }.items():
        out = run_fairseq(
            *("train", toy_data, *TINY_MODEL, *TRAINING, *options, "--save-dir", tmp_path),
            check=False,
        )
        assert out.returncode != 0
        assert sentence in out.stderr.strip().splitlines()[-1]
