"""The base of vision models fits levels of different shapes: feature maps from fine to coarse."""

import pytest
import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from revcol_nlp.columns import Column, Level
from revcol_nlp.columns.verify import compare_gradients
from vision.models.base import RevColVisionModel, TimmRevCol

CHANNELS = (4, 8, 16)
COLUMNS = 3


class ConvLevel(nn.Module):
    """A level network: halves the level below, adds the level above, then convolves."""

    def __init__(self, level: int, top_down: bool):
        super().__init__()
        dim = CHANNELS[level]
        self.down = nn.Conv2d(CHANNELS[level - 1], dim, 2, 2) if level else nn.Identity()
        self.up = nn.Conv2d(CHANNELS[level + 1], dim, 1) if top_down else None
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, below: Tensor, above: Tensor | None) -> Tensor:
        x = self.down(below)
        if above is not None:
            x = x + F.interpolate(self.up(above), scale_factor=2.0)
        return x + F.gelu(self.conv(x))


def build_columns() -> list[Column]:
    top = len(CHANNELS) - 1
    return [
        Column(
            Level(
                ConvLevel(level, top_down=column > 0 and level < top),
                CHANNELS[level],
                channel_dim=-3,
            )
            for level in range(len(CHANNELS))
        )
        for column in range(COLUMNS)
    ]


class Pyramid(RevColVisionModel):
    """Images in patches of 4 pixels, three levels of 4, 8 and 16 pixels, and a linear head."""

    stem_pattern = r"^stem"

    def __init__(self, num_classes: int = 5, in_chans: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(in_chans, CHANNELS[0], 4, 4)
        self.norm = nn.Identity()
        self.head = nn.Linear(CHANNELS[-1], num_classes)
        self.set_columns(TimmRevCol(build_columns, stem_shape=(2, CHANNELS[0], 8, 8)))

    def forward_stem(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def describe_level(self, level: int) -> tuple[int, int]:
        return CHANNELS[level], 4 * 2**level

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.revcol(self.forward_stem(x))[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x).mean((2, 3)))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.head = nn.Linear(CHANNELS[-1], num_classes) if num_classes else nn.Identity()


@pytest.fixture
def model() -> Pyramid:
    torch.manual_seed(0)
    return Pyramid()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))


def test_feature_maps_have_the_channels_and_reductions_that_are_listed(x):
    features = build_model_with_cfg(
        Pyramid,
        "pyramid",
        pretrained=False,
        pretrained_cfg=dict(num_classes=5),
        features_only=True,
        feature_cfg=dict(out_indices=3, feature_cls="getter"),
    )
    assert features.feature_info.channels() == [4, 8, 16]
    assert features.feature_info.reduction() == [4, 8, 16]
    shapes = [tuple(y.shape) for y in features(x)]
    assert shapes == [(2, 4, 8, 16), (2, 8, 4, 8), (2, 16, 2, 4)]


def test_intermediates_are_the_states_of_levels(model, x):
    model.eval()
    features, (fine, coarse) = model.forward_intermediates(x, [(0, 0), (-1, 2)])
    assert torch.equal(features, model.forward_features(x))
    assert torch.equal(coarse, features)
    assert torch.equal(fine, model.revcol.columns[0].levels[0].network(model.stem(x), None))
    with pytest.raises(ValueError, match="output_fmt must be NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_gradients_through_features_equal_ordinary_autograd(model, x):
    model.train().set_grad_checkpointing()
    grads = []
    for reversible in (True, False):
        model.revcol.reversible = reversible
        model.zero_grad()
        output, (fine, middle) = model.forward_intermediates(x, [(1, 0), (2, 1)])
        (output.square().mean() + fine.square().mean() + middle.square().mean()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert max(compare_gradients(*grads).values()) <= 1e-6


def test_gammas_are_not_decayed_in_any_shape_and_other_parameters_of_that_name_are(model):
    model.gamma = nn.Parameter(torch.ones(2, 2))
    optimizer = create_optimizer_v2(model, "adamw", lr=1, weight_decay=0.1)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    gammas = [level.gamma for column in model.revcol.columns[1:] for level in column.levels]
    assert len(gammas) == 6
    assert not any(id(gamma) in decayed for gamma in gammas)
    assert id(model.gamma) in decayed


def test_layer_decay_groups_go_by_column_then_level(model):
    ids = group_parameters(model, model.group_matcher(), reverse=True)
    assert ids["stem.weight"] == 0
    assert ids["revcol.columns.1.levels.0.network.conv.weight"] == 4
    assert ids["revcol.columns.2.levels.2.gamma"] == 9
    assert ids["head.weight"] == 10


def test_init_weights_after_pruning_draws_new_weights_in_place(model):
    model.prune_intermediate_layers([(1, 1)])
    conv = model.revcol.columns[1].levels[0].network.conv
    weight, before = conv.weight, conv.weight.detach().clone()
    model.revcol.init_weights()
    assert conv.weight is weight and not torch.equal(weight, before)


@pytest.mark.filterwarnings("ignore")  # torch deprecates TorchScript
def test_torchscript_runs_as_the_model_does(model, x):
    scripted = torch.jit.script(model.eval())
    torch.testing.assert_close(scripted(x), model(x))
