"""To whatever calls it, a reversible stack is an ordinary differentiable module."""

import copy
import io
import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from revcol_nlp.columns.column import Column
from revcol_nlp.columns.level import Level
from revcol_nlp.columns.stack import RevCol
from revcol_nlp.columns.verify import compute_gradients, gradient_difference
from tests.helpers.columns import DIM, build, largest_difference, loss_of, stem_output
from tests.helpers.exact import assert_bits_equal

BOUND = 1e-6


def test_every_parameter_has_a_gradient_after_one_step():
    model = build(4).train()
    loss_of(model(stem_output())).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def stepped(model) -> dict[str, torch.Tensor]:
    """Gradients that ``backward()`` accumulates in one training step."""
    model.train().zero_grad()
    stem = stem_output().requires_grad_()
    torch.manual_seed(3)
    loss_of(model(stem)).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    return found | {"stem": stem.grad}


def test_autograd_grad_returns_what_backward_accumulates():
    model = build(4).train()
    accumulated = stepped(model)
    model.zero_grad()
    stem = stem_output().requires_grad_()
    found = torch.autograd.grad(loss_of(model(stem)), [*model.parameters(), stem])
    assert_bits_equal(dict(zip(accumulated, found, strict=True)), accumulated)
    assert all(p.grad is None for p in model.parameters())


def test_autograd_grad_of_the_input_alone():
    model = build(4).train()
    stem = stem_output().requires_grad_()
    (found,) = torch.autograd.grad(loss_of(model(stem)), [stem])
    assert_bits_equal(found, stepped(model)["stem"])


def test_gradient_hooks_fire_once_column_by_column_from_the_last():
    model = build(4).train()
    fired: list[int] = []
    for index, column in enumerate(model.columns):
        for p in column.parameters():
            p.register_post_accumulate_grad_hook(lambda _, index=index: fired.append(index))
    loss_of(model(stem_output())).backward()
    assert len(fired) == len(list(model.parameters()))
    # A column's gradients are out, and can be reduced, before the column before it is rebuilt.
    assert fired == sorted(fired, reverse=True)


def test_tensor_hooks_change_the_gradient():
    model = build(4).train()
    plain = stepped(model)
    gamma = model.columns[1].levels[2].gamma
    handle = gamma.register_hook(lambda grad: 2 * grad)
    doubled = stepped(model)
    handle.remove()
    name = "columns.1.levels.2.gamma"
    assert_bits_equal(doubled.pop(name), 2 * plain.pop(name))
    assert_bits_equal(doubled, plain)


def test_gradients_accumulate_over_micro_batches():
    model = build(4).train()
    stems = [stem_output(seed=seed) for seed in (1, 2)]
    parameters = list(model.parameters())
    one_by_one = [torch.autograd.grad(loss_of(model(stem)), parameters) for stem in stems]
    for stem in stems:
        loss_of(model(stem)).backward()
    for p, first, second in zip(parameters, *one_by_one, strict=True):
        assert_bits_equal(p.grad, first + second)


def test_a_weight_used_in_two_levels_and_two_columns_gets_both_gradients():
    model = build(4)
    shared = model.columns[0].levels[0].network.blocks[0].ffn
    model.columns[0].levels[2].network.blocks[0].ffn = shared
    model.columns[2].levels[1].network.blocks[0].ffn = shared
    model.columns[1].levels[2].gamma = model.columns[1].levels[0].gamma
    assert max(gradient_difference(model, stem_output()).values()) <= BOUND


@pytest.mark.parametrize("frozen", [[0], [1], [2, 3], [0, 1, 2]])
@pytest.mark.parametrize("stem_needs_grad", [True, False])
def test_frozen_columns_and_a_frozen_stem_leave_the_other_gradients_right(frozen, stem_needs_grad):
    found = []
    for reversible in (True, False):
        model = build(4, revcol={"reversible": reversible}).train()
        for index in frozen:
            model.columns[index].requires_grad_(False)
        stem = stem_output().requires_grad_(stem_needs_grad)
        loss_of(model(stem)).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(grads | ({"stem": stem.grad} if stem_needs_grad else {}))
    assert largest_difference(*found) <= BOUND
    trained = [i for i in range(4) if i not in frozen]
    assert {int(name.split(".")[1]) for name in found[0] if name != "stem"} == set(trained)


def test_a_second_backward_repeats_the_first_if_the_graph_was_retained():
    model = build(5, revcol={"keep_columns": 0}).train()
    loss = loss_of(model(stem_output()))
    loss.backward(retain_graph=True)
    first = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss.backward()
    second = {name: p.grad for name, p in model.named_parameters()}
    assert_bits_equal(second, first)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_a_double_backward_is_refused():
    model = build(4).train()
    stem = stem_output().requires_grad_()
    with pytest.raises(RuntimeError, match=r"RevCol .* twice .* set reversible=False"):
        torch.autograd.grad(loss_of(model(stem)), [stem], create_graph=True)


def test_parameters_changed_before_backward_are_noticed():
    model = build(4).train()
    loss = loss_of(model(stem_output()))
    with torch.no_grad():
        model.columns[1].levels[0].network.blocks[0].ffn.fc1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_frozen_parameters_and_masks_changed_before_backward_are_noticed():
    model = build(4).train()
    model.columns[1].requires_grad_(False)
    mask = torch.zeros(4, 8, dtype=torch.bool)
    for changed in (mask, model.columns[1].levels[0].network.blocks[0].ffn.fc1.weight):
        loss = loss_of(model(stem_output(), [{"key_padding_mask": mask}] * 4))
        changed[:, 4:] = 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_swapped_parameters_are_noticed():
    model = build(4).train()
    other = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    loss = loss_of(torch.func.functional_call(model, other, (stem_output(),)))
    with pytest.raises(RuntimeError, match="other trainable parameters"):
        loss.backward()


def test_switching_to_eval_before_backward_is_noticed():
    model = build(4, dropout=0.1).train()
    loss = loss_of(model(stem_output()))
    model.eval()
    with pytest.raises(RuntimeError, match="between train"):
        loss.backward()


def test_a_backward_that_failed_leaves_nothing_stale():
    model = build(4).train()
    expected = stepped(model)
    level = model.columns[1].levels[1].network
    loss = loss_of(model(stem_output()))
    failing = level.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss.backward()
    failing.remove()
    assert_bits_equal(stepped(model), expected)


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_the_random_stream_after_a_step_is_the_plain_ones(p):
    model, streams = build(4, dropout=p, drop_path_rate=p), []
    for reversible in (True, False):
        compute_gradients(model, stem_output(), reversible=reversible)
        streams.append(torch.get_rng_state())
    assert_bits_equal(*streams)


def test_backward_inside_the_autocast_region_is_exact_too():
    model = build(4).train()
    found = []
    for model.reversible in (True, False):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss_of(model(stem_output())).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert largest_difference(*found) <= BOUND


def test_copies_and_pickles_compute_the_same():
    model = build(4).train()
    expected = stepped(model)
    loss_of(model(stem_output()))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_bits_equal(stepped(twin), expected)


def test_a_state_dict_serves_both_paths():
    reversible, plain = build(4), build(4, revcol={"reversible": False})
    with torch.no_grad():
        for p in reversible.parameters():
            p.add_(0.1 * torch.randn_like(p))
    buffer = io.BytesIO()
    torch.save(reversible.state_dict(), buffer)
    buffer.seek(0)
    plain.load_state_dict(torch.load(buffer))
    assert largest_difference(stepped(plain), stepped(reversible)) <= BOUND


@pytest.mark.slow
def test_compiled_levels_are_exact(monkeypatch):
    model = build(4, dropout=0.1)
    plain = compute_gradients(model, stem_output(), reversible=False)
    model.compile_levels(fullgraph=True)
    monkeypatch.setattr(torch._inductor.config, "fallback_random", True)
    assert max(gradient_difference(model, stem_output()).values()) <= BOUND
    compiled = compute_gradients(model, stem_output(), reversible=True)
    # Compiled kernels round differently from eager ones.
    assert largest_difference(compiled, plain) <= 1e-3
    copied = copy.deepcopy(model)
    torch.save(copied, io.BytesIO())
    assert (
        largest_difference(compute_gradients(copied, stem_output(), reversible=True), plain) <= 1e-3
    )


def test_compiled_levels_run_the_same_graphs_in_both_passes():
    """Another graph might round otherwise, and the inverse would be none."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    model = build(4, dropout=0.1)
    model.keep_columns = 0
    model.compile_levels(backend=backend)
    loss = model(stem_output())[-1].sum()
    made = len(graphs)
    loss.backward()
    attention = torch.nn.functional.scaled_dot_product_attention
    networks = [any(n.target is attention for n in graph.graph.nodes) for graph in graphs]
    # What the backward pass compiles besides is the inverse of the update.
    assert any(networks[:made]) and len(graphs) > made and not any(networks[made:])


# DistributedDataParallel, with two gloo processes on the CPU.


class Scaled(nn.Module):
    """A loss that is a mean over the batch, as DDP averages gradients over processes."""

    def __init__(self):
        super().__init__()
        self.revcol = build(4)
        self.unused = nn.Linear(2, 2)

    def forward(self, stem):
        return self.revcol(stem)[-1].square().mean()


DDP_CASES = {
    "default": ({}, 1),
    "find_unused_parameters": ({"find_unused_parameters": True}, 1),
    "static_graph": ({"static_graph": True}, 1),
    "no_sync": ({}, 2),
}


def ddp_worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    for name, (options, steps) in DDP_CASES.items():
        model = Scaled().train()
        if "find_unused_parameters" not in options:
            del model.unused
        ddp = DistributedDataParallel(model, **options)
        for step in range(steps):
            stem = stem_output(batch=8, seed=step)[4 * rank : 4 * rank + 4]
            # All but the last micro-batch accumulate locally.
            with nullcontext() if step == steps - 1 else ddp.no_sync():
                ddp(stem).backward()
        torch.save(used_gradients(model), f"{folder}/{name}{rank}.pt")
    dist.destroy_process_group()


def used_gradients(model: Scaled) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.revcol.named_parameters()}


@pytest.fixture(scope="module")
def ddp_gradients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(ddp_worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", DDP_CASES)
def test_two_processes_get_the_gradients_of_one_with_the_joined_batch(name, ddp_gradients):
    model = Scaled().train()
    model.revcol.reversible = False
    for step in range(DDP_CASES[name][1]):
        model(stem_output(batch=8, seed=step)).backward()
    for rank in range(2):
        grads = torch.load(ddp_gradients / f"{name}{rank}.pt")
        assert largest_difference(grads, used_gradients(model)) <= 1e-5


def test_a_level_may_skip_its_network_in_some_steps():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(DIM, DIM)
            self.skips = False

        def forward(self, below, above):
            return below * 0.5 if self.skips else self.linear(below)

    torch.manual_seed(0)
    model = RevCol(Column(Level(Skipping(), DIM) for _ in range(2)) for _ in range(3))
    model.columns[1].levels[0].network.skips = True
    assert max(gradient_difference(model, stem_output()).values()) <= BOUND
