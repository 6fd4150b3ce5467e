"""Options and recipes: the paper's numbers, and a sentence for every mistake."""

import re
from dataclasses import fields

import pytest
import yaml

from tests.helpers.images import TINY, make_images, sentence, train
from vision.training.command import UserError
from vision.training.configs import TRAINING_PARTS, TrainingConfig
from vision.training.options import (
    ALWAYS_EFFECTIVE,
    NEEDS,
    create_train_parser,
    create_validate_parser,
    parse_training,
    parse_validation,
)
from vision.training.recipes import RECIPES

# The rows of the paper's Table 11, column ImageNet-1K T/S/B, in its words. "Drop path" is left out:
# for RevCol-ViT, Appendix B.1 has a sentence of its own, "the stochastic depth rate is set as 0.2
# for RevCol-B". Rows without an entry in this column: Gradient clipping, Layer-wise decay.
TABLE_11 = """
Input resolution            | 224^2
Training epochs             | 300
Warmup epochs               | 20
Batch size                  | 4096
Peak learning rate          | 4e-3
Learning rate schedule      | cosine
AdamW momentum              | (0.9, 0.999)
Weight decay                | 0.05
EMA                         | 0.9999
Label smoothing             | 0.1
Data augment                | RandAug (9, 0.5)
Mixup                       | 0.8
CutMix                      | 1.0
Random erase                | 0.25
"""
DROP_PATH_OF_VIT_B = "Drop path | 0.2"

# All rows of Table 12, with the first of the entries B/L/XL/H.
TABLE_12 = """
Input resolution                | 384^2
Fine-tuning epochs              | 30
Warmup epochs                   | 0
Batch size                      | 512
Peak learning rate              | 5e-5
Layer-wise learning rate decay  | 0.9
AdamW momentum                  | (0.9, 0.999)
Weight decay                    | 1e-8
Learning rate schedule          | cosine
Head init scale                 | 0.001
Drop path                       | 0.2
EMA                             | X
Gradient clipping               | 10.0 (norm)
Label smoothing                 | 0.1
Data augment                    | RandAug (9, 0.5)
Mixup                           | X
CutMix                          | X
Random erase                    | 0.25
"""

# Option for each row with a plain number; X means off.
NUMBERS = {
    "Training epochs": "epochs",
    "Fine-tuning epochs": "epochs",
    "Warmup epochs": "warmup_epochs",
    "Batch size": "batch_size",
    "Peak learning rate": "lr",
    "Layer-wise learning rate decay": "layer_decay",
    "Weight decay": "weight_decay",
    "Head init scale": "head_init_scale",
    "Drop path": "drop_path",
    "Label smoothing": "smoothing",
    "Mixup": "mixup",
    "CutMix": "cutmix",
    "Random erase": "reprob",
}


def translate(table: str) -> dict[str, object]:
    """The options that rows of the paper's tables ask for."""
    options: dict[str, object] = {}
    for line in table.strip().splitlines():
        row, value = (part.strip() for part in line.split("|"))
        numbers = [float(number) for number in re.findall(r"[\d.]+(?:e-?\d+)?", value)]
        if row in NUMBERS:
            options[NUMBERS[row]] = numbers[0] if numbers else 0.0
        elif row == "Input resolution":
            options["img_size"] = numbers[0]
        elif row == "Learning rate schedule":
            options["sched"] = value
        elif row == "AdamW momentum":
            options |= {"opt": "adamw", "opt_betas": numbers}
        elif row == "EMA":
            options["model_ema"] = bool(numbers)
            if numbers:
                options["model_ema_decay"] = numbers[0]
        elif row == "Gradient clipping":
            options |= {"clip_grad": numbers[0], "clip_mode": value.split("(")[1].rstrip(")")}
        elif row == "Data augment":
            # RandAug (magnitude, standard deviation); inc1: a larger magnitude is stronger, as in
            # the training code that the paper follows (ConvNeXt).
            options["aa"] = f"rand-m{numbers[0]:g}-mstd{numbers[1]:g}-inc1"
        else:
            raise ValueError(f"no option for the row {row!r}")
    return options


def parse(*args: object) -> dict[str, object]:
    return parse_training(["DATA", "--model", "test_vit", *map(str, args)]).values


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("imagenet_vit_s", TABLE_11),
        ("imagenet_vit_b", TABLE_11 + DROP_PATH_OF_VIT_B),
        ("imagenet_finetune_b", TABLE_12),
    ],
)
def test_recipes_are_the_papers(name, table):
    expected, default = translate(table), parse()
    found = parse("--recipe", name)
    assert {option: found[option] for option in expected} == expected
    others = found.keys() - expected.keys() - {"recipe"}
    assert {option: found[option] for option in others} == {
        option: default[option] for option in others
    }, "the recipe sets nothing that the paper does not name"


def test_the_stochastic_depth_of_vit_b_is_not_that_of_vit_s():
    assert parse("--recipe", "imagenet_vit_b")["drop_path"] == 0.2
    assert parse("--recipe", "imagenet_vit_s")["drop_path"] is None


def test_every_recipe_loads_and_every_line_of_it_counts():
    for file in RECIPES.glob("*.yaml"):
        options = parse("--recipe", file.stem)
        assert options["recipe"] == file.stem
        content = yaml.safe_load(file.read_text())
        lines = {key: value for key, value in content.items() if key not in ("base", "models")}
        assert lines and {key: options[key] for key in lines} == lines


def test_a_recipe_for_another_model_is_followed_with_a_note(tmp_path, caplog):
    caplog.set_level("INFO")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("models: revcol_vit_*\nlr: 0.01\n")
    data, command = make_images(tmp_path / "images", 4, 1), (*TINY, "--epochs", 1)
    train(data, *command, "--recipe", recipe, "--output", tmp_path / "out")
    assert (
        "note: the recipe mine is for revcol_vit_*: its numbers may not suit test_vit"
        in caplog.text
    )
    for model in ("revcol_vit_small_patch16_224", "revcol_vit_base_patch16_224"):
        size = model.split("_")[2][0]
        own = parse_training(["DATA", "--model", model, "--recipe", f"imagenet_vit_{size}"])
        other = parse_training(
            ["DATA", "--model", model, "--recipe", f"imagenet_vit_{'sb'[size == 's']}"]
        )
        assert not own.note and model in other.note
        assert not parse_training(["DATA", "--model", model, "--recipe", "cifar10"]).note


def test_the_command_line_overrides_the_recipe_and_that_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "epochs: 7\nlr: 5e-3\nmodel_ema: true\nmodel_kwargs: {depth: 3, act_layer: gelu}\n"
    )
    options = parse("--recipe", file, "--epochs", 9)
    assert (options["epochs"], options["lr"], options["batch_size"]) == (9, 0.005, 256)
    assert options["model_ema"] is True
    assert options["model_kwargs"] == {"depth": 3, "act_layer": "gelu"}
    options = parse("--recipe", file, "--no-model-ema")
    assert options["model_ema"] is False and options["output"] == "runs/test_vit"


def test_a_recipe_overrides_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("epochs: 7\nlr: 5e-3\nclip_grad: 1.0\n")
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: {tmp_path}/base.yaml\nlr: 1e-3\nclip_grad: null\n")
    options = parse("--recipe", file)
    assert (options["epochs"], options["lr"], options["clip_grad"]) == (7, 1e-3, None)
    file.write_text(f"base: {file}\n")
    with pytest.raises(UserError, match=r"mine\.yaml is its own base"):
        parse("--recipe", file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("epoch: 3", "there is no option 'epoch'; did you mean 'epochs'?"),
        ("epochs: many", "wrong value for 'epochs': argument --epochs: expected a whole number"),
        ("epochs: true", "wrong value for 'epochs'"),
        ("model_ema: 3", "wrong value for 'model_ema'"),
        ("lr: [1, 2]", "wrong value for 'lr'"),
        ("sched: cosin", "wrong value for 'sched'"),
        ("model_ema_decay: 0.9", "--model-ema-decay has no effect without --model-ema"),
        ("data: here", "there is no option 'data'"),
        ("- epochs", "must hold lines of 'option: value'"),
        ("epochs: [", "is not YAML"),
    ],
)
def test_mistakes_in_a_recipe_are_named_with_its_file(content, expected, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        parse("--recipe", file)
    assert str(caught.value).startswith(str(file)) and expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--model-ema-decay 0.9", "--model-ema-decay has no effect without --model-ema"),
        ("--model-ema-warmup", "--model-ema-warmup has no effect without --model-ema"),
        ("--mixup-prob 0.5", "--mixup-prob has no effect without --mixup or --cutmix"),
        ("--mixup-mode elem", "--mixup-mode has no effect without --mixup or --cutmix"),
        ("--mixup 1 --mixup-switch-prob 0.1", "without --mixup and --cutmix"),
        ("--clip-mode agc", "--clip-mode has no effect without --clip-grad"),
        ("--warmup-lr 0", "--warmup-lr has no effect without --warmup-epochs"),
        ("--sched constant --min-lr 0", "--min-lr has no effect without --sched cosine"),
        ("--remode rand", "--remode has no effect without --reprob above 0"),
        ("--recount 2", "--recount has no effect without --reprob above 0"),
        ("--aa original --color-jitter 0.4", "--color-jitter has no effect beside --aa"),
        ("--momentum 0.9", "--momentum has no effect without an optimizer that has momentum"),
        ("--opt sgd --opt-betas 0.9 0.9", "--opt-betas has no effect without an optimizer"),
        ("--opt sgd --opt-eps 1", "--opt-eps has no effect without an optimizer"),
        ("--dataset-download", "--dataset-download has no effect without --dataset torch/NAME"),
        ("--recipe imagnet", "there is no recipe 'imagnet': name a .yaml file, or one of cifar10,"),
        ("--opt adamv", "timm has no optimizer 'adamv'; did you mean 'adam"),
        ("--epochs 3 --warmup-epochs 3", "--warmup-epochs (3) must be below --epochs (3)"),
        ("--epochs 0", "argument --epochs: expected a whole number from 1, got '0'"),
        ("--epochs 1.5", "argument --epochs: expected a whole number from 1, got '1.5'"),
        ("--lr nan", "argument --lr: expected a number from 0, got 'nan'"),
        ("--mixup-prob 2", "argument --mixup-prob: expected a number from 0 to 1, got '2'"),
        ("--scale 1 0.5", "--scale needs two numbers above 0, the smaller one first"),
        ("--model-kwargs depth", "argument --model-kwargs: expected key=value, got 'depth'"),
        ("--model-kwargs num_classes=3", "use --num-classes instead of num_classes"),
        ("--initial-checkpoint a --pretrained-path b", "exclude each other"),
        ("--grad-checkpointing", "unrecognized arguments: --grad-checkpointing"),
        ("--epoch 3", "unrecognized arguments: --epoch 3"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(options, expected):
    with pytest.raises(UserError) as caught:
        parse(*options.split())
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_validation_refuses_an_option_without_effect():
    with pytest.raises(UserError, match="--dataset-download has no effect without"):
        parse_validation(["DATA", "--checkpoint", "FILE", "--dataset-download"])


def test_each_option_is_said_to_have_an_effect_always_or_under_a_condition():
    """A new option fails here until it stands in one of the two lists."""
    options = {field.name for part in TRAINING_PARTS for field in fields(part)} | {"recipe"}
    assert ALWAYS_EFFECTIVE | NEEDS.keys() == options
    assert not ALWAYS_EFFECTIVE & NEEDS.keys()


def test_every_option_is_explained_with_its_default():
    for parser in (create_train_parser(), create_validate_parser()):
        for action in parser._actions:
            text = action.help
            required = action.required or action.dest in ("help", "model", "checkpoint")
            assert len(text.split()) >= 6, f"{action.dest}: {text}"
            assert required or "(default: " in text, f"{action.dest}: {text}"


def test_a_configuration_cannot_be_changed():
    config = parse_training(["DATA", *map(str, TINY)]).config
    assert isinstance(config, TrainingConfig)
    with pytest.raises(AttributeError):
        config.optimisation.lr = 1.0


def test_models_and_devices_that_do_not_exist_are_refused_in_a_sentence(tmp_path, capsys):
    options = (make_images(tmp_path / "images"), *TINY, "--output", tmp_path / "out")
    assert "--model is missing" in sentence(capsys, "train", tmp_path)
    error = sentence(capsys, "train", *options, "--model", "test_vits")
    assert "timm has no model 'test_vits'; did you mean 'test_vit" in error
    error = sentence(capsys, "train", *options, "--model-kwargs", "depht=3")
    assert "test_vit cannot be made with these options" in error and "depht" in error
    assert "--device tpux cannot be used" in sentence(capsys, "train", *options, "--device", "tpux")
    error = sentence(capsys, "train", *options, "--opt", "adamw", "--opt-betas", "0.9")
    assert "--opt adamw does not take these options" in error
    assert not (tmp_path / "out").exists()
