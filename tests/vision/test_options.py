"""Options and recipes: the papers' numbers, and a sentence for every mistake."""

import pytest
import yaml

from tests.helpers.images import TINY, make_images, sentence
from vision.training.errors import UserError
from vision.training.options import RECIPES, parse

TABLE_11 = {
    "img_size": 224,
    "epochs": 300,
    "warmup_epochs": 20,
    "batch_size": 4096,
    "lr": 4e-3,
    "sched": "cosine",
    "opt": "adamw",
    "opt_betas": [0.9, 0.999],
    "weight_decay": 0.05,
    "drop_path": 0.2,
    "model_ema": True,
    "model_ema_decay": 0.9999,
    "smoothing": 0.1,
    "aa": "rand-m9-mstd0.5-inc1",
    "mixup": 0.8,
    "cutmix": 1.0,
    "reprob": 0.25,
}
TABLE_12 = {
    "img_size": 384,
    "epochs": 30,
    "warmup_epochs": 0,
    "batch_size": 512,
    "lr": 5e-5,
    "layer_decay": 0.9,
    "opt": "adamw",
    "opt_betas": [0.9, 0.999],
    "weight_decay": 1e-8,
    "sched": "cosine",
    "head_init_scale": 0.001,
    "drop_path": 0.2,
    "model_ema": False,
    "clip_grad": 10.0,
    "clip_mode": "norm",
    "smoothing": 0.1,
    "aa": "rand-m9-mstd0.5-inc1",
    "mixup": 0.0,
    "cutmix": 0.0,
    "reprob": 0.25,
}


@pytest.mark.parametrize(
    ("name", "table"), [("imagenet", TABLE_11), ("imagenet_finetune", TABLE_12)]
)
def test_recipes_are_the_papers(name, table):
    args = vars(parse(["DATA", "--model", "test_vit", "--recipe", name]))
    assert {key: args[key] for key in table} == table
    assert yaml.safe_load((RECIPES / f"{name}.yaml").read_text()).keys() == table.keys()


def test_every_recipe_loads_and_every_line_of_it_counts():
    default = vars(parse(["DATA", "--model", "test_vit"]))
    for file in RECIPES.glob("*.yaml"):
        args = vars(parse(["DATA", "--model", "test_vit", "--recipe", file.stem]))
        assert args["recipe"] == file.stem and args != default
        content = yaml.safe_load(file.read_text())
        assert {key: args[key] for key in content} == content


def test_the_command_line_overrides_the_recipe_and_that_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "epochs: 7\nlr: 5e-3\nmodel_ema: true\nmodel_kwargs: {depth: 3, act_layer: gelu}\n"
    )
    args = parse(["DATA", "--model", "test_vit", "--recipe", str(file), "--epochs", "9"])
    assert (args.epochs, args.lr, args.model_ema, args.batch_size) == (9, 0.005, True, 256)
    assert args.model_kwargs == {"depth": 3, "act_layer": "gelu"}
    args = parse(["DATA", "--model", "test_vit", "--recipe", str(file), "--no-model-ema"])
    assert not args.model_ema and args.output == "runs/test_vit"


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
        parse(["DATA", "--model", "test_vit", "--recipe", str(file)])
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
        ("--model-kwargs num_classes=3", "say --num-classes instead of num_classes"),
        ("--initial-checkpoint a --pretrained-path b", "exclude each other"),
        ("--grad-checkpointing", "unrecognized arguments: --grad-checkpointing"),
        ("--epoch 3", "unrecognized arguments: --epoch 3"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(options, expected):
    with pytest.raises(UserError) as caught:
        parse(["DATA", "--model", "test_vit", *options.split()])
    assert expected in str(caught.value) and "\n" not in str(caught.value)


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
