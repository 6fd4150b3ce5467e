"""Features of RevCol vision models by column and level, and models cut off after them."""

import pytest
import timm
import torch

from revcol_nlp.columns.verify import compare_gradients
from tests.helpers.revcol_vit import build, images


def test_intermediates_are_levels_of_columns():
    model, x = build().eval(), images()
    places = [(column, level) for column in range(3) for level in range(4)]
    states = model.revcol.forward_columns(model.forward_stem(x), places)
    features, last = model.forward_intermediates(x, output_fmt="NLC")
    assert torch.equal(features, model.forward_features(x))
    for level, found in enumerate(last):
        assert torch.equal(found, states[2, level])

    indices = [(0, 3), 1, (-2, 0), -1]
    found = model.forward_intermediates(x, indices, output_fmt="NLC", intermediates_only=True)
    wanted = [states[0, 3], states[2, 1], states[1, 0], states[2, 3]]
    assert all(map(torch.equal, found, wanted))
    (found,) = model.forward_intermediates(x, [(1, 2)], intermediates_only=True)
    assert found.shape == (4, 32, 4, 4)
    assert torch.equal(found.flatten(2).transpose(1, 2), states[1, 2])
    assert len(model.forward_intermediates(x, 2, intermediates_only=True)) == 2


def test_columns_after_the_last_one_asked_for_do_not_run():
    model, x, ran = build().eval(), images(), []
    for index, column in enumerate(model.revcol.columns):
        column.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.forward_intermediates(x, [(1, 0)], intermediates_only=True)
    assert ran == [0, 1]
    features, _ = model.forward_intermediates(x, [(0, 1)], stop_early=True)
    assert ran == [0, 1, 0]
    assert torch.equal(features, model.forward_intermediates(x, [(0, 3)], output_fmt="NLC")[1][0])


def test_intermediates_with_prefix_tokens_and_as_a_dictionary():
    model, x = build(class_token=True, reg_tokens=2, global_pool="token").eval(), images()
    pairs = model.forward_intermediates(x, 1, return_prefix_tokens=True, intermediates_only=True)
    assert [y.shape for y in pairs[0]] == [(4, 32, 4, 4), (4, 3, 32)]
    found = model.forward_intermediates(
        x, norm=True, output_dict=True, return_prefix_tokens=True, output_fmt="NLC"
    )
    last = torch.cat(
        [found["image_intermediates_prefix"][-1], found["image_intermediates"][-1]], dim=1
    )
    assert torch.equal(last, found["image_features"])


@pytest.mark.parametrize("indices", [[(3, 0)], [(0, 4)], [4], 5, 0, []])
def test_levels_that_do_not_exist_are_refused(indices):
    with pytest.raises(ValueError, match="level"):
        build().forward_intermediates(images(), indices)


def test_features_only_gives_the_four_levels_and_trains_like_the_plain_path():
    model = build(features_only=True, num_columns=5).train()
    assert model.feature_info.channels() == [32] * 4
    assert model.feature_info.reduction() == [16] * 4
    grads = []
    for model.model.revcol.reversible in (True, False):
        model.zero_grad()
        sum((level * (n + 1)).square().mean() for n, level in enumerate(model(images()))).backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    assert max(compare_gradients(*grads).values()) <= 1e-6


def test_features_only_prunes_the_columns_that_are_not_asked_for():
    whole = build().eval()
    model = build(features_only=True, out_indices=((0, 1), (1, 3))).eval()
    assert model.feature_info.module_name() == [
        "revcol.columns.0.levels.1",
        "revcol.columns.1.levels.3",
    ]
    assert len(model.model.revcol.columns) == 2
    wanted = whole.forward_intermediates(images(), [(0, 1), (1, 3)], intermediates_only=True)
    assert all(map(torch.equal, model(images()), wanted))


def test_pruning_twice_keeps_the_outputs():
    model, x = build(num_columns=4, keep_columns=4).eval(), images()
    wanted = model.forward_intermediates(x, [(1, 2)], intermediates_only=True)
    model.prune_intermediate_layers([(2, 0), (1, 2)])
    model.set_grad_checkpointing(False)
    assert len(model.revcol.columns) == model.revcol.keep_columns == 3
    assert model.prune_intermediate_layers([1]) == [0]
    found = model.forward_intermediates(x, [0], intermediates_only=True)
    assert torch.equal(found[0], wanted[0])
    assert len(model.revcol.columns) == model.revcol.keep_columns == 2
    assert model(x).shape == (4, 16, 32)  # no head: tokens


def test_dinos_name_gives_the_same_levels():
    model, x = build(class_token=True).eval(), images()
    (patches, prefix), _ = model.get_intermediate_layers(x, 2, return_prefix_tokens=True)
    wanted = model.forward_intermediates(x, [2], output_fmt="NLC", intermediates_only=True)[0]
    assert torch.equal(patches, wanted)
    assert prefix.shape == (4, 1, 32)


@pytest.mark.parametrize("training", [True, False])
def test_hooks_give_the_features_too(training):
    """``feature_info`` names modules that run: timm's hooks, and everybody's, find them there."""
    options = dict(features_only=True, out_indices=(0, 2, 3))
    found, expected = [
        _create_seeded(**options, **how).train(training)(images())
        for how in ({"feature_cls": "hook"}, {})
    ]
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected, strict=True):
        tokens = theirs.flatten(2).transpose(1, 2)
        assert (ours - tokens).abs().max() <= 2**-20 * tokens.abs().max()


def _create_seeded(**options):
    torch.manual_seed(0)
    return timm.create_model("test_revcol_vit", **options)
