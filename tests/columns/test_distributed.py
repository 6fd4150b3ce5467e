"""Columns over several devices: when gradients are reduced, and FSDP2."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from revcol_nlp.columns.keyframes import measure_growth, plan_keyframes
from revcol_nlp.columns.stack import RevCol
from tests.helpers.columns import DIM, build, largest_difference, loss_of, stem_output
from tests.helpers.processes import run_in_processes

COLUMNS = 5
Event = tuple[str, int]


def column_of(name: str) -> int:
    return int(name.partition("columns.")[2].partition(".")[0])


def record_events(find_unused_parameters: bool) -> list[Event]:
    """Return the events of a backward pass, in order, with the columns that they belong to.

    ``"run"``: its ``F``; ``"gradient"``: a parameter of it has its gradient; ``"reduce"``: a bucket
    with a gradient of it is on its way.
    """
    distributed.init_process_group("gloo")
    model = build(COLUMNS).train()
    columns = {p: column_of(name) for name, p in model.named_parameters()}
    ddp = DistributedDataParallel(
        model, bucket_cap_mb=0.02, find_unused_parameters=find_unused_parameters
    )
    events: list[Event] = []

    def reduce(_: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
        events.extend(("reduce", columns[p]) for p in bucket.parameters())
        work = distributed.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    def note(column: int, *_: object) -> None:
        events.append(("run", column))

    ddp.register_comm_hook(None, reduce)
    for parameter, column in columns.items():
        parameter.register_post_accumulate_grad_hook(
            lambda _, column=column: events.append(("gradient", column))
        )
    for column, module in enumerate(model.columns):
        for level in module.levels:
            level.network.register_forward_pre_hook(partial(note, column))
    for _ in range(2):  # DDP forms its buckets again after the first step
        loss = loss_of(ddp(stem_output()))
        events.clear()
        loss.backward()
    return events


@pytest.mark.parametrize(
    "find_unused_parameters", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_gradients_are_on_their_way_while_the_next_column_is_rebuilt(
    find_unused_parameters: bool,
) -> None:
    for events in run_in_processes(2, record_events, find_unused_parameters):
        # The last column has run under ordinary autograd.
        rebuilt = [column for kind, column in events if kind == "run"]
        assert rebuilt == [column for column in (3, 2, 1, 0) for _level in range(4)]
        for column in range(1, COLUMNS):
            before = events[: events.index(("run", column - 1))]
            assert before.count(("gradient", column)) == events.count(("gradient", column)) > 0
            assert ("gradient", column - 1) not in before
            assert ("reduce", column) in before


# FSDP2

FLOAT32 = MixedPrecisionPolicy()
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def steps(model: RevCol, share: slice, autocast: bool = False) -> list[dict[str, Tensor]]:
    """Gradients in two updates by SGD, on ``share`` of the sentences of each."""
    gradients = []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for seed in (1, 2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            top = model(stem_output(seed=seed)[share])[-1].float()
        weights = torch.randn(stem_output().shape, generator=torch.Generator().manual_seed(2))
        processes = 4 / len(top)  # over which FSDP2 takes the mean
        (processes * top * weights[share]).sum().backward()
        named = model.named_parameters()
        gradients.append({name: whole(p.grad).clone() for name, p in named})
        optimizer.step()
        optimizer.zero_grad()
    return gradients


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def with_a_keyframe(revcol: dict[str, Any]) -> RevCol:
    """It is needed for the last channels, of which only the last process has a share."""
    model = build(COLUMNS, revcol=revcol).train()
    for column in model.columns[1:3]:
        with torch.no_grad():
            column.levels[0].gamma[DIM // 2 :] = 1e-3
    return model


def sharded_steps(
    columns: bool, revcol: dict[str, Any], policy: MixedPrecisionPolicy = FLOAT32
) -> list[dict[str, Tensor]]:
    """`steps` of one of two processes, each with half of the sentences."""
    distributed.init_process_group("gloo")
    model = with_a_keyframe(revcol)
    for column in model.columns if columns else ():
        fully_shard(column, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    growth = measure_growth(model.columns[:-1]).detach()
    assert plan_keyframes(growth, 1e6) == {0, 3}
    if columns:
        first, last = model.columns[0], model.columns[-2]
        first.levels[0].network.register_forward_pre_hook(
            lambda *_: check_sharded(last.parameters())
        )
    share = slice(2) if distributed.get_rank() == 0 else slice(2, 4)
    return steps(model, share, autocast=policy.param_dtype is not None)


def check_sharded(parameters: Iterable[Tensor]) -> None:
    assert all(isinstance(p, DTensor) for p in parameters), "held while another column runs"


@pytest.mark.parametrize(
    ("columns", "revcol"),
    [
        (True, {}),
        pytest.param(True, {"keep_columns": 0}, marks=pytest.mark.slow),
        pytest.param(True, {"reversible": False}, marks=pytest.mark.slow),
        pytest.param(False, {}, marks=pytest.mark.slow),
    ],
    ids=["columns", "columns-keep-0", "columns-plain", "root-only"],
)
def test_fsdp2_gives_the_gradients_of_one_process(columns: bool, revcol: dict[str, Any]) -> None:
    expected = steps(with_a_keyframe({"reversible": False}), slice(4))
    for found in run_in_processes(2, sharded_steps, columns, revcol):
        # The sum over two processes is rounded differently, on each processor in its own way. In
        # the second update, columns have amplified the difference of the weights.
        assert largest_difference(found[0], expected[0]) < 1e-5
        assert largest_difference(found[1], expected[1]) < 1e-3


@pytest.mark.slow
def test_fsdp2_in_bf16_gives_the_gradients_of_plain_columns() -> None:
    policy = dataclasses.replace(BF16, cast_forward_inputs=False)
    plain = run_in_processes(2, sharded_steps, True, {"reversible": False}, policy)[0]
    for found in run_in_processes(2, sharded_steps, True, {}, policy):
        for ours, theirs in zip(found, plain, strict=True):
            assert largest_difference(ours, theirs) < 1e-6


@pytest.mark.parametrize("reversible", [pytest.param(False, marks=pytest.mark.slow), True])
def test_states_that_fsdp2_has_cast_are_refused(reversible: bool) -> None:
    with pytest.raises(RuntimeError, match=r"states in torch.bfloat16 .*cast_forward_inputs"):
        run_in_processes(1, sharded_steps, True, {"reversible": reversible}, BF16)


def sharded_in_parts() -> None:
    distributed.init_process_group("gloo")
    model = build(3).train()
    for column in model.columns:
        for level in column.levels:
            fully_shard(level.network)
    loss_of(fully_shard(model)(stem_output())).backward()


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_sharding_parts_of_a_column_is_refused(world: int) -> None:
    with pytest.raises(RuntimeError, match=r"fully_shard\(column\)"):
        run_in_processes(world, sharded_in_parts)


class Hidden(nn.Module):
    """As fairscale leaves a module: its weight is part of a parameter that it does not have."""

    def __init__(self, flat: nn.Parameter):
        super().__init__()
        self.weight = flat[:DIM]

    def forward(self, below: Tensor, above: Tensor | None) -> Tensor:
        return below * self.weight


def test_hidden_parameters_are_refused() -> None:
    model = build(3).train()
    model.columns[1].levels[1].network = Hidden(nn.Parameter(torch.ones(2 * DIM)))
    with pytest.raises(RuntimeError, match="none of its parameters"):
        model(stem_output())
    model.reversible = False
    loss_of(model(stem_output())).backward()
