"""``--init-decoder-from``, and a run that changes from reversible to plain columns and back."""

import logging
import os
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli.train import main

from revcol_nlp.checkpoints.contents import allow_fairseq_globals
from revcol_nlp.checkpoints.errors import DamagedCheckpointError, DictionaryMismatchError
from revcol_nlp.checkpoints.options import option_difference
from revcol_nlp.models import RevColTransformerModel
from revcol_nlp.models.decoder_init import init_decoder
from tests.helpers.exact import assert_bits_equal
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING
from tests.helpers.transformers import SMALL, build_dictionary, build_model, build_small

DECODER = {name: value for name, value in SMALL.items() if name != "encoder_columns"}


def train(*arguments: object) -> None:
    """``fairseq-train`` in this process, on one thread as in those of ``run_fairseq``."""
    torch.set_num_threads(1)
    allow_fairseq_globals()  # another test may have taken them back
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, [str(argument) for argument in arguments])
    main(convert_namespace_to_omegaconf(args))


def load(path: Path) -> dict[str, Any]:
    allow_fairseq_globals()
    return torch.load(path, map_location="cpu")


def save(path: Path, model: torch.nn.Module, **settings: Any) -> Path:
    """A checkpoint as fairseq writes them."""
    state = {
        "args": None,
        "cfg": {"task": {}, "model": settings},
        "model": model.state_dict(),
        "optimizer_history": [
            {"optimizer_name": "Adam", "lr_scheduler_state": {}, "num_updates": 9}
        ],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    torch.save(state, path)
    return path


def transformer(size: int = 100, **settings: Any) -> torch.nn.Module:
    """fairseq's transformer with the decoder of ``build_small()``, and other weights."""
    settings = DECODER | {"share_all_embeddings": True, "encoder_layers": 1} | settings
    model = build_model("transformer", size, **settings)
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-1, 1)
    return model


def assert_begins_as(model: dict[str, Any], source: dict[str, Any]) -> None:
    """Assert that the decoder and both embedding tables of ``model`` are those of ``source``."""
    names = [n for n in model if n.startswith("decoder.") or n.startswith("encoder.embed_")]
    names = [n for n in names if not n.endswith(".version")]
    assert len(names) > 20
    assert [n for n in names if not torch.equal(model[n], source[n])] == []


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, toy_data: Path) -> dict[str, Path | str]:
    """A trained transformer, and a RevCol run that began with it and made one update of size 0."""
    folder = tmp_path_factory.mktemp("begun")
    sizes = [option for option in TINY_MODEL if option != "revcol_transformer_tiny"]
    sizes.insert(sizes.index("--arch") + 1, "transformer")
    run = (*TRAINING, "--dropout", "0.1", "--disable-validation", "--no-epoch-checkpoints")
    source = folder / "transformer/checkpoint_last.pt"
    train(
        *(toy_data, *sizes, *run, "--seed", "3", "--max-update", "2", "--encoder-layers", "1"),
        *("--activation-fn", "relu", "--save-dir", source.parent),
    )
    command = (toy_data, *TINY_MODEL, *run, "--init-decoder-from", source)
    train(*command, "--lr", "0", "--max-update", "1", "--save-dir", folder / "revcol")
    return {"source": source, "command": command, "revcol": folder / "revcol"}


def test_a_training_begins_with_the_decoder_and_the_embeddings(begun: dict[str, Any]) -> None:
    source, model = (
        load(path)["model"] for path in (begun["source"], begun["revcol"] / "checkpoint_last.pt")
    )
    assert_begins_as(model, source)
    assert torch.equal(model["encoder.embed_tokens.weight"], source["decoder.embed_tokens.weight"])


def test_a_resumed_training_and_a_translation_do_not_read_the_file_again(
    begun: dict[str, Any], toy_data: Path, tmp_path: Path
) -> None:
    hidden = begun["source"].rename(tmp_path / "hidden.pt")
    try:
        shutil.copytree(begun["revcol"], tmp_path / "revcol")
        train(*begun["command"], "--max-update", "3", "--save-dir", tmp_path / "revcol")
        trained = load(tmp_path / "revcol/checkpoint_last.pt")
        assert trained["optimizer_history"][-1]["num_updates"] == 3
        name = "decoder.layers.0.fc1.weight"
        assert not torch.equal(trained["model"][name], load(hidden)["model"][name])
        translator = RevColTransformerModel.from_pretrained(
            tmp_path / "revcol", "checkpoint_last.pt", toy_data
        )
        assert len(translator.translate(["w1 w2", "w3"], beam=2)) == 2

        with pytest.raises(ValueError, match=f"{begun['source']} is not a file"):
            train(*begun["command"], "--max-update", "1", "--save-dir", tmp_path / "new")
    finally:
        hidden.rename(begun["source"])


def test_a_resumed_training_does_not_begin_again(begun: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(begun["revcol"], tmp_path / "revcol")
    for updates in (3, 4):
        train(
            *(*begun["command"], "--max-update", updates, "--save-dir", tmp_path / "revcol"),
            *(() if updates == 3 else ("--lr", "0", "--reset-lr-scheduler")),
        )
        state = load(tmp_path / "revcol/checkpoint_last.pt")["model"]
        if updates == 3:
            before = state
    assert not torch.equal(
        before["decoder.embed_tokens.weight"],
        load(begun["source"])["model"]["decoder.embed_tokens.weight"],
    )
    assert_bits_equal(state, before)


def test_fine_tuning_gives_all_weights_and_so_excludes_it(
    begun: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="remove --init-decoder-from"):
        train(
            *(*begun["command"], "--finetune-from-model", trained / "checkpoint_last.pt"),
            *("--save-dir", tmp_path),
        )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share_all_embeddings": False},
        {"share_all_embeddings": False, "share_decoder_input_output_embed": True},
        {"decoder_learned_pos": True, "encoder_learned_pos": True, "layernorm_embedding": True},
        {"decoder_normalize_before": True},
    ],
    ids=str,
)
def test_everything_but_the_columns_is_taken(settings: dict[str, Any], tmp_path: Path) -> None:
    source, model = transformer(**settings), build_small(**settings)
    columns = {k: v.clone() for k, v in model.state_dict().items() if ".revcol." in k}
    path = save(tmp_path / "a.pt", source, **settings)
    init_decoder(model, Namespace(**settings), str(path))
    assert_begins_as(model.state_dict(), source.state_dict())
    after = {k: v for k, v in model.state_dict().items() if ".revcol." in k}
    assert_bits_equal(after, columns)


def test_separate_tables_take_a_shared_one(tmp_path: Path) -> None:
    source, model = transformer(), build_small(share_all_embeddings=False)
    init_decoder(model, Namespace(), str(save(tmp_path / "a.pt", source)))
    assert_begins_as(model.state_dict(), source.state_dict())


def test_half_precision_is_taken_as_it_is(tmp_path: Path) -> None:
    source, model = transformer(), build_small()
    init_decoder(model, Namespace(), str(save(tmp_path / "a.pt", source.half())))
    assert_begins_as(model.state_dict(), source.float().state_dict())


def test_a_checkpoint_without_a_fingerprint_of_its_dictionary_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        init_decoder(build_small(), Namespace(), str(save(tmp_path / "a.pt", transformer())))
        assert [("source" in r.message, "target" in r.message) for r in caplog.records] == [
            (True, False),
            (False, True),
        ]
        assert "cannot be checked" in caplog.text
        caplog.clear()
        init_decoder(
            build_small(), Namespace(), str(save(tmp_path / "b.pt", build_small(encoder_columns=5)))
        )
        assert not caplog.records


def other_symbols(folder: Path) -> Path:
    model, other = build_small(), build_dictionary(99)
    other.add_symbol("another")
    for half in (model.encoder, model.decoder):
        half.dictionary_fingerprint = type(half.dictionary_fingerprint)(other, "source")
    return save(folder / "a.pt", model)


def torn(folder: Path) -> Path:
    path = save(folder / "a.pt", transformer())
    os.truncate(path, 5000)
    return path


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        (
            {"decoder_layers": 2},
            ValueError,
            "the checkpoint has 2 decoder layers, this model has 1;",
        ),
        (
            {"size": 104},
            ValueError,
            "of the checkpoint has 104 entries, that of this model has 100;",
        ),
        (
            {"decoder_embed_dim": 64, "encoder_embed_dim": 64},
            ValueError,
            r"has shape \(100, 64\) in the checkpoint and \(100, 32\) in this model",
        ),
        ({"decoder_ffn_embed_dim": 96}, ValueError, r"fc1.weight has shape \(96, 32\) in the"),
        (
            {"layernorm_embedding": True},
            ValueError,
            "only the checkpoint has decoder.layernorm_embedding.bias",
        ),
        (
            {"decoder_learned_pos": True},
            ValueError,
            "only the checkpoint has decoder.embed_positions.weight;",
        ),
        (
            {"decoder_attention_heads": 8},
            ValueError,
            "--decoder-attention-heads is 8 in the checkpoint and 4 in",
        ),
        (
            {"activation_fn": "gelu"},
            ValueError,
            "--activation-fn is gelu in the checkpoint and relu in",
        ),
        (
            {"share_all_embeddings": False},
            ValueError,
            "are one table in this model and two in the checkpoint",
        ),
        (other_symbols, DictionaryMismatchError, "another dictionary.* are other symbols"),
        (torn, DamagedCheckpointError, "is damaged"),
        (
            lambda folder: folder / "none.pt",
            ValueError,
            "^--init-decoder-from .*none.pt is not a file",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_what_does_not_fit_is_refused_in_a_sentence_and_nothing_is_copied(
    source: dict[str, Any] | Callable[[Path], Path],
    error: type[Exception],
    sentence: str,
    tmp_path: Path,
) -> None:
    ours = {"decoder_attention_heads": 4, "activation_fn": "relu"}
    if isinstance(source, dict):
        path = save(tmp_path / "a.pt", transformer(**source), **(ours | source))
    else:
        path = source(tmp_path)
    model = build_small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=sentence):
        init_decoder(model, Namespace(**ours), str(path))
    assert_bits_equal(model.state_dict(), before)


def test_options_that_hydra_nests_are_compared() -> None:
    theirs, ours = {"decoder": {"attention_heads": 8}}, Namespace(decoder_attention_heads=4)
    assert option_difference(theirs, ours) == ("--decoder-attention-heads", 8, 4)
    assert option_difference(ours, ours) is None


def test_a_reversible_run_goes_on_plain_and_a_plain_one_reversible(
    trained: Path, toy_data: Path, tmp_path: Path
) -> None:
    """12 reversible updates, 2 plain ones, and a reversible one give the same bits as 15 reversible
    ones: both paths compute the same."""
    shutil.copy(trained / "checkpoint_3_12.pt", tmp_path / "checkpoint_last.pt")
    run = (toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0.1", "--save-dir", tmp_path)
    train(*run, "--encoder-no-reversible", "--max-update", "14")
    plain = load(tmp_path / "checkpoint_last.pt")
    assert plain["cfg"]["model"]["encoder_no_reversible"]
    assert plain["optimizer_history"][-1]["num_updates"] == 14
    train(*run, "--max-epoch", "3")
    ours, expected = load(tmp_path / "checkpoint3.pt"), load(trained / "checkpoint3.pt")
    for key in ("model", "last_optimizer_state"):
        assert_bits_equal(ours[key], expected[key])
