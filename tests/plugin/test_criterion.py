"""--criterion chunked_label_smoothed_cross_entropy computes what fairseq's criterion does."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.distributed import ModuleProxyWrapper
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from revcol_nlp.columns import verify
from revcol_nlp.criterions.chunked_cross_entropy import (
    ChunkedLabelSmoothedCrossEntropy,
    map_chunks,
)
from tests.helpers.checkpoints import load
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, RunFairseq
from tests.helpers.transformers import SMALL, build_dictionary, build_model, build_small

CHUNKED = "chunked_label_smoothed_cross_entropy"
ORDINARY = "label_smoothed_cross_entropy"
VOCABULARY = 1000
# Chunks are added up in another order, and may run other kernels than the whole. What may differ,
# relative to the largest element, are some roundings, which columns amplify.
ROUNDING = {None: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def sample(batch: int = 4, length: int = 9) -> dict[str, Any]:
    """A batch whose sentences are padded, on the right, to ``length``, and repeat a word."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(4, VOCABULARY, (batch, length), generator=generator)
    tokens[:, 3:6] = tokens[:, 2:3]  # for embeddings that are shared, the likeliest guess
    for row in range(batch):
        tokens[row, length - row :] = 1
    return {
        "net_input": {
            "src_tokens": tokens,
            "src_lengths": tokens.ne(1).sum(1),
            "prev_output_tokens": tokens.roll(1, 1),
        },
        "target": tokens,
        "ntokens": int(tokens.ne(1).sum()),
    }


def criterion(name: str, **options: Any) -> nn.Module:
    task = Namespace(target_dictionary=build_dictionary(VOCABULARY))
    options = {"sentence_avg": False, "label_smoothing": 0.1} | options
    return CRITERION_REGISTRY[name](task, **options)


def model(**options: Any) -> nn.Module:
    options = {"size": VOCABULARY, "dropout": 0.1, "share_all_embeddings": True} | options
    return build_small(**options).train()


def step(
    net: nn.Module, loss_of: nn.Module, reduce: bool = True, autocast: torch.dtype | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Make one training step of ``net`` with the criterion ``loss_of``.

    Returns:
        the loss and the gradients of all parameters and of the decoder's features; then what was
        logged.
    """
    features: list[Tensor] = []
    extract = net.decoder.extract_features

    def extract_and_watch(*args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        found = extract(*args, **kwargs)
        found[0].retain_grad()
        features.append(found[0])
        return found

    net.decoder.extract_features = extract_and_watch
    net.zero_grad()
    torch.manual_seed(5)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        loss, sample_size, logged = loss_of(net, sample(), reduce)
    loss.sum().backward()
    net.decoder.extract_features = extract
    # Attention does not depend on the keys' bias, so that its gradient is rounding alone.
    found = {n: p.grad.clone() for n, p in net.named_parameters() if "k_proj.bias" not in n}
    found |= {"features": features[0].grad, "loss": loss.detach()}
    return found, logged | {"returned sample_size": sample_size}


def largest(differences: dict[str, float]) -> float:
    return max(differences.values())


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.0}, {"sentence_avg": True}, {"ignore_prefix_size": 2}],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_ordinary_criterion(
    autocast: torch.dtype | None, options: dict[str, Any]
) -> None:
    net, options = model(), options | {"report_accuracy": True}
    ordinary, logged = step(net, criterion(ORDINARY, **options), autocast=autocast)
    chunked, also_logged = step(
        net, criterion(CHUNKED, chunk_tokens=5, **options), autocast=autocast
    )
    if autocast is not None:  # see test_the_weights_gradient_is_as_exact_in_half_precision
        del ordinary["encoder.embed_tokens.weight"], chunked["encoder.embed_tokens.weight"]
    assert largest(verify.compare_gradients(chunked, ordinary)) < ROUNDING[autocast]
    assert also_logged.pop("n_correct") == logged.pop("n_correct") > 0
    torch.testing.assert_close(also_logged, logged, rtol=ROUNDING[autocast], atol=0)


@pytest.mark.parametrize("arch", ["transformer", "revcol_transformer_tiny"])
def test_embeddings_that_are_not_shared_and_losses_that_are_not_summed(arch: str) -> None:
    sizes = {} if arch.startswith("revcol") else {"encoder_layers": 1}
    sizes |= {"share_all_embeddings": False, "dropout": 0.1}
    net = build_model(arch, size=VOCABULARY, **(SMALL | sizes)).train()
    ordinary, logged = step(net, criterion(ORDINARY), reduce=False)
    chunked, also_logged = step(net, criterion(CHUNKED, chunk_tokens=5), reduce=False)
    assert chunked["loss"].shape == ordinary["loss"].shape == (36, 1)
    assert "decoder.output_projection.weight" in chunked
    assert largest(verify.compare_gradients(chunked, ordinary)) < ROUNDING[None]
    losses = [{"": found["nll_loss"]} for found in (also_logged, logged)]
    assert largest(verify.compare_gradients(*losses)) < ROUNDING[None]


def test_validation_gives_the_same_loss_and_accuracy_where_padding_is_guessed_too() -> None:
    net, batch = model().eval(), sample()
    weight = net.decoder.embed_tokens.weight.data
    weight[1] = 10 * weight[batch["target"][1, -2]]  # the word before the padding of a sentence
    with torch.no_grad():
        (loss, _, logged), (same, _, also_logged) = (
            criterion(name, report_accuracy=True)(net, batch) for name in (ORDINARY, CHUNKED)
        )
    torch.testing.assert_close(same, loss, rtol=ROUNDING[None], atol=0)
    assert also_logged["n_correct"] == logged["n_correct"]


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)
def test_the_weights_gradient_is_as_exact_in_half_precision(autocast: torch.dtype) -> None:
    # It is rounded to half precision once per chunk, or once in all: the sum of the chunks must not
    # lose what the single product keeps.
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 16, generator=generator).requires_grad_()
    rows = torch.randn(400, 16, generator=generator)
    grad = torch.randn(400, 50, generator=generator)
    half = (tensor.to(autocast).double() for tensor in (grad, rows))
    exact = next(half).T @ next(half)

    def error(chunk_size: int) -> float:
        weight.grad = None
        with torch.autocast("cpu", autocast):
            project = lambda x, g: (x @ weight.T * g).sum()  # noqa: E731
            torch.stack(map_chunks(project, chunk_size, rows, grad)).sum().backward()
        return (weight.grad - exact).square().mean().sqrt().item()

    assert error(40) < 1.5 * error(400)


def test_no_more_logits_are_held_than_those_of_one_chunk() -> None:
    def held(name: str, **options: Any) -> int:
        net, loss_of = model(), criterion(name, **options)
        return verify.count_held_bytes(lambda: loss_of(net, sample())[0], list(net.parameters()))

    row = 4 * VOCABULARY  # bytes of one token's logits
    assert held(ORDINARY) - held(CHUNKED, chunk_tokens=6) > (36 - 6) * row
    assert held(CHUNKED, chunk_tokens=6) - held(CHUNKED, chunk_tokens=4) < 3 * row
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    net = model()
    net.decoder.output_projection.register_forward_hook(count)
    criterion(CHUNKED, chunk_tokens=6)(net, sample())[0].backward()
    assert calls == 6 + 5  # all chunks, and again all but the last


@pytest.mark.parametrize(
    ("arch", "options", "sentence"),
    [
        (
            "transformer",
            {"adaptive_softmax_cutoff": "20,50"},
            "does not work with --adaptive-softmax-cutoff.*use --criterion adaptive_loss",
        ),
        (
            "lstm",
            {"criterion": CHUNKED},
            "needs a model that passes features_only.*LSTMModel is not.*--criterion label_smoothed",
        ),
    ],
)
def test_models_that_do_not_work_in_chunks_are_refused(
    arch: str, options: dict[str, Any], sentence: str
) -> None:
    net = build_model(arch, size=VOCABULARY, **options)
    with pytest.raises(ValueError, match=f"--criterion {CHUNKED} {sentence}"):
        criterion(CHUNKED)(net, sample())


class Projecting(nn.Module):
    """A decoder with what the criterion asks for, and nothing else that fairseq's decoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.projection = nn.Linear(8, VOCABULARY)

    def extract_features(self, tokens: Tensor) -> tuple[Tensor, None]:
        return self.embed(tokens), None

    def output_layer(self, features: Tensor) -> Tensor:
        return self.projection(features)

    def forward(self, tokens: Tensor, features_only: bool = False) -> tuple[Tensor, None]:
        features, _ = self.extract_features(tokens)
        return features if features_only else self.output_layer(features), None


class Translating(BaseFairseqModel):
    """A model with the decoder `Projecting` and no encoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = Projecting()

    def get_normalized_probs(
        self, net_output: tuple[Tensor, Any], log_probs: bool, sample: Any = None
    ) -> Tensor:
        return net_output[0].log_softmax(-1)

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        return self.decoder(prev_output_tokens, **kwargs)


class Deaf(Translating):
    """A model that cannot pass ``features_only`` on, as fairseq's models of speech cannot."""

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor
    ) -> tuple[Tensor, Any]:
        return self.decoder(prev_output_tokens)


def test_a_decoder_needs_only_features_and_an_output_layer() -> None:
    net = Translating()
    ordinary, _ = step(net, criterion(ORDINARY))
    chunked, _ = step(net, criterion(CHUNKED, chunk_tokens=5))
    assert largest(verify.compare_gradients(chunked, ordinary)) < ROUNDING[None]


def test_a_model_that_does_not_pass_features_only_to_its_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a model that passes features_only.*Deaf is not"):
        criterion(CHUNKED)(Deaf(), sample())


def test_each_model_is_checked_even_after_one_that_works() -> None:
    chunked = criterion(CHUNKED)
    chunked(Translating(), sample())
    with pytest.raises(ValueError, match="needs a model that passes features_only"):
        chunked(Deaf(), sample())


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("find_unused", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_distributed_data_parallel_sees_every_gradient(
    process_group: None, find_unused: bool, shared: bool
) -> None:
    net = model(share_all_embeddings=shared)
    ordinary, _ = step(net, criterion(ORDINARY))
    parallel = DistributedDataParallel(net, find_unused_parameters=find_unused)
    wrapped, chunked = ModuleProxyWrapper(parallel), criterion(CHUNKED, chunk_tokens=5)
    if find_unused and not shared:
        with pytest.raises(ValueError, match="does not work with --find-unused-parameters"):
            chunked(wrapped, sample())
        return
    for _ in range(2):  # it finds what the first step did wrong in the second
        net.zero_grad()
        torch.manual_seed(5)
        chunked(wrapped, sample())[0].backward()
    for name, p in net.named_parameters():
        if "k_proj.bias" not in name:
            difference = verify.compare_gradients({"": p.grad}, {"": ordinary[name]})
            assert largest(difference) < ROUNDING[None]


def test_a_chunk_has_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="--chunk-tokens must be at least 1, got 0"):
        criterion(CHUNKED, chunk_tokens=0)


def test_fairseq_train_ends_with_the_same_model(
    tmp_path: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    # SGD, since Adam makes full steps of gradients that are rounding alone.
    sgd = ("--optimizer", "sgd", "--momentum", "0.9", "--lr", "0.1", "--dropout", "0.1")
    states, output = {}, {}
    for name in (ORDINARY, CHUNKED):
        options = ("--chunk-tokens", "100") if name == CHUNKED else ()
        done = run_fairseq(
            *("train", toy_data, *TINY_MODEL, *TRAINING, *sgd, "--max-epoch", "2"),
            *("--criterion", name, *options, "--save-dir", tmp_path / name),
        )
        output[name] = done.stdout + done.stderr
        states[name] = load(tmp_path / name / "checkpoint_last.pt")
    assert f"criterion: {ChunkedLabelSmoothedCrossEntropy.__name__}" in output[CHUNKED]
    ours, theirs = (states[name]["model"] for name in (CHUNKED, ORDINARY))
    names = [n for n in theirs if theirs[n].is_floating_point() and "k_proj.bias" not in n]
    ours, theirs = ({name: weights[name] for name in names} for weights in (ours, theirs))
    assert largest(verify.compare_gradients(ours, theirs)) < 1e-4
    # fairseq rounds the loss in a checkpoint to three decimals.
    ours, theirs = (states[name]["extra_state"]["val_loss"] for name in (CHUNKED, ORDINARY))
    assert ours == pytest.approx(theirs, abs=2e-3)
