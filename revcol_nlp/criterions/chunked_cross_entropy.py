"""``--criterion chunked_label_smoothed_cross_entropy``: fairseq's criterion, in little memory.

The logits of a batch, one per target token and vocabulary entry, are often the largest tensor of a
training step. This criterion computes them chunk by chunk, from the decoder's features, and never
holds the logits of more than one chunk. `map_chunks` does that for any function of rows.
"""

# No `from __future__ import annotations`: fairseq reads the types of the fields.
import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
    label_smoothed_nll_loss,
)
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NAME = "chunked_label_smoothed_cross_entropy"
CHUNK_TOKENS = 1024

Result = TypeVar("Result")


def map_chunks(function: Callable[..., Result], chunk_size: int, *tensors: Tensor) -> list[Result]:
    """Apply ``function`` to ``chunk_size`` rows of ``tensors`` at a time, with usual gradients.

    What ``function`` keeps for the backward pass is not held but computed a second time there,
    chunk by chunk. The last chunk is the exception: the backward pass begins with it, so holding
    it does not raise the peak.

    Args:
        function: takes one chunk of each tensor. Other tensors that it reads, such as weights, are
            not split.
        chunk_size: number of rows in a chunk; the last chunk may have fewer.
        tensors: each of shape ``(N, ...)``, with the same ``N``.

    Returns:
        the results of all chunks, in order.
    """
    *chunks, last = zip(*(tensor.split(chunk_size) for tensor in tensors), strict=True)
    return [
        *(checkpoint(function, *chunk, use_reentrant=False) for chunk in chunks),
        function(*last),
    ]


@dataclass
class ChunkedLabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of `ChunkedLabelSmoothedCrossEntropy`."""

    chunk_tokens: int = field(
        default=CHUNK_TOKENS,
        metadata={
            "help": "number of target tokens, padding included, whose logits are in memory at once"
        },
    )


@register_criterion(NAME, dataclass=ChunkedLabelSmoothedCrossEntropyConfig)
class ChunkedLabelSmoothedCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    """fairseq's ``label_smoothed_cross_entropy`` in chunks: same options, values and gradients.

    The decoder returns its features, and this criterion projects them to the vocabulary,
    ``chunk_tokens`` tokens at a time. The backward pass projects all chunks but the last a second
    time, which is a third more work for the projection. ``--report-accuracy`` projects once more.

    It works with every model that passes ``features_only`` to its decoder, and whose decoder has an
    ``output_layer``, as fairseq's transformers do. Other models are refused at the first batch.

    Raises:
        ValueError: if ``chunk_tokens`` is not positive.
    """

    def __init__(
        self,
        task: FairseqTask,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
        chunk_tokens: int = CHUNK_TOKENS,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        if chunk_tokens < 1:
            raise ValueError(f"--chunk-tokens must be at least 1, got {chunk_tokens}")
        self.chunk_tokens = chunk_tokens
        self._checked_model: weakref.ref[BaseFairseqModel] | None = None

    def forward(
        self, model: BaseFairseqModel, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss, the sample size that it is divided by, and the values to log.

        Raises:
            ValueError: if ``model`` does not work in chunks. This is checked at its first batch.
        """
        if self._checked_model is None or self._checked_model() is not model:
            _check_model(model)
            self._checked_model = weakref.ref(model)
        net_input = sample["net_input"] | {"features_only": True}
        return super().forward(model, sample | {"net_input": net_input}, reduce)

    def compute_loss(
        self,
        model: BaseFairseqModel,
        net_output: tuple[Tensor, Any],
        sample: dict[str, Any],
        reduce: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return the smoothed and the plain loss: summed, or ``(N, 1)`` without ``reduce``."""

        def compute_losses(lprobs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            return label_smoothed_nll_loss(
                lprobs, target, self.eps, ignore_index=self.padding_idx, reduce=reduce
            )

        chunks = zip(*self._map_lprobs(compute_losses, model, net_output, sample), strict=True)
        loss, nll_loss = (torch.stack(x).sum() if reduce else torch.cat(x) for x in chunks)
        return loss, nll_loss

    @torch.no_grad()
    def compute_accuracy(
        self, model: BaseFairseqModel, net_output: tuple[Tensor, Any], sample: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return the number of target tokens that are the likeliest ones, and of all of them."""

        def count_correct(lprobs: Tensor, target: Tensor) -> Tensor:
            is_token = target.ne(self.padding_idx)
            return torch.stack([(lprobs.argmax(1).eq(target) & is_token).sum(), is_token.sum()])

        n_correct, total = sum(self._map_lprobs(count_correct, model, net_output, sample))
        return n_correct, total

    def _map_lprobs(
        self,
        function: Callable[[Tensor, Tensor], Result],
        model: BaseFairseqModel,
        net_output: tuple[Tensor, Any],
        sample: dict[str, Any],
    ) -> list[Result]:
        """Apply ``function(lprobs, target)``, of shapes ``(n, V)`` and ``(n,)``, to each chunk."""

        def project_and_apply(features: Tensor, target: Tensor) -> Result:
            logits = model.decoder.output_layer(features)
            return function(model.get_normalized_probs((logits, None), log_probs=True), target)

        features, target = net_output[0], model.get_targets(sample, net_output)
        after_prefix = slice(self.ignore_prefix_size, None)
        return map_chunks(
            project_and_apply,
            self.chunk_tokens,
            features[:, after_prefix].flatten(0, 1),
            target[:, after_prefix].flatten(),
        )


def _check_model(model: BaseFairseqModel) -> None:
    """Raise ValueError if the loss of ``model`` cannot be computed from its decoder's features."""
    decoder = getattr(model, "decoder", None)
    if not _returns_features(model, decoder):
        raise ValueError(
            f"--criterion {NAME} needs a model that passes features_only to its decoder, and a "
            f"decoder that has an output_layer; {type(_unwrap(model)).__name__} is not such a "
            "model; use --criterion label_smoothed_cross_entropy"
        )
    if getattr(decoder, "adaptive_softmax", None) is not None:
        raise ValueError(
            f"--criterion {NAME} does not work with --adaptive-softmax-cutoff, which needs another "
            "loss; use --criterion adaptive_loss, or remove --adaptive-softmax-cutoff"
        )
    # DistributedDataParallel looks for unused parameters in the output of the forward pass. The
    # projection runs after that, so its weight would seem unused, unless it is an embedding, too.
    parallel = getattr(model, "module", None)
    is_shared = getattr(decoder, "share_input_output_embed", False)
    if getattr(parallel, "find_unused_parameters", False) and not is_shared:
        raise ValueError(
            f"--criterion {NAME} does not work with --find-unused-parameters unless the decoder's "
            "embeddings are shared; remove --find-unused-parameters, or add "
            "--share-decoder-input-output-embed"
        )


def _returns_features(model: BaseFairseqModel, decoder: Any) -> bool:
    """Tell whether the forward pass can leave out the projection to the vocabulary."""
    if not callable(getattr(decoder, "output_layer", None)):
        return False
    given = inspect.signature(_unwrap(model).forward).parameters
    is_passed_on = "features_only" in given or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in given.values()
    )
    # A decoder that takes any keyword may ignore this one, and so does not count.
    return is_passed_on and "features_only" in inspect.signature(decoder.forward).parameters


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside of the wrappers for several devices."""
    while isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    return model
