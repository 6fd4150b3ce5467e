"""``--criterion chunked_label_smoothed_cross_entropy``: fairseq's, without holding all logits."""

# No `from __future__ import annotations`: fairseq reads the types of the fields.
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
    label_smoothed_nll_loss,
)
from fairseq.models import BaseFairseqModel
from fairseq.tasks import FairseqTask
from torch import Tensor

from .chunked import Result, map_chunks

NAME = "chunked_label_smoothed_cross_entropy"
CHUNK_TOKENS = 1024


@dataclass
class ChunkedLabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of `ChunkedLabelSmoothedCrossEntropy`."""

    chunk_tokens: int = field(
        default=CHUNK_TOKENS,
        metadata={"help": "target tokens, padding included, whose logits are in memory at once"},
    )


@register_criterion(NAME, dataclass=ChunkedLabelSmoothedCrossEntropyConfig)
class ChunkedLabelSmoothedCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    """fairseq's ``label_smoothed_cross_entropy``, its options, values and gradients, in chunks.

    The decoder returns its features, and the vocabulary is projected to here, ``chunk_tokens``
    tokens at a time. The backward pass projects anew all chunks but the last, which is a third
    more work for the projection; ``--report-accuracy`` projects once more.

    Any model works whose decoder takes ``features_only``, as fairseq's transformers do.

    Raises:
        ValueError: if ``chunk_tokens`` is not positive or the model does not work in chunks.
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

    def forward(
        self, model: BaseFairseqModel, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """The loss, the sample size that it is divided by, and what is logged."""
        _check(model)
        net_input = sample["net_input"] | {"features_only": True}
        return super().forward(model, sample | {"net_input": net_input}, reduce)

    def compute_loss(
        self,
        model: BaseFairseqModel,
        net_output: tuple[Tensor, Any],
        sample: dict[str, Any],
        reduce: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Smoothed and plain loss, each summed, or ``(N, 1)`` without ``reduce``."""

        def losses(lprobs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            return label_smoothed_nll_loss(
                lprobs, target, self.eps, ignore_index=self.padding_idx, reduce=reduce
            )

        found = zip(*self._map(losses, model, net_output, sample), strict=True)
        loss, nll_loss = (torch.stack(x).sum() if reduce else torch.cat(x) for x in found)
        return loss, nll_loss

    @torch.no_grad()
    def compute_accuracy(
        self, model: BaseFairseqModel, net_output: tuple[Tensor, Any], sample: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """How many tokens of the target are the likeliest ones, and how many there are."""

        def counts(lprobs: Tensor, target: Tensor) -> Tensor:
            is_token = target.ne(self.padding_idx)
            return torch.stack([(lprobs.argmax(1).eq(target) & is_token).sum(), is_token.sum()])

        n_correct, total = sum(self._map(counts, model, net_output, sample))
        return n_correct, total

    def _map(
        self,
        function: Callable[[Tensor, Tensor], Result],
        model: BaseFairseqModel,
        net_output: tuple[Tensor, Any],
        sample: dict[str, Any],
    ) -> list[Result]:
        """``function(lprobs, target)``, ``(n, V)`` and ``(n,)``, of every chunk."""

        def of_chunk(features: Tensor, target: Tensor) -> Result:
            logits = model.decoder.output_layer(features)
            return function(model.get_normalized_probs((logits, None), log_probs=True), target)

        features, target = net_output[0], model.get_targets(sample, net_output)
        kept = slice(self.ignore_prefix_size, None)
        return map_chunks(
            of_chunk,
            self.chunk_tokens,
            features[:, kept].flatten(0, 1),
            target[:, kept].flatten(),
        )


def _check(model: BaseFairseqModel) -> None:
    decoder = getattr(model, "decoder", None)
    if decoder is None or "features_only" not in inspect.signature(decoder.forward).parameters:
        raise ValueError(
            f"--criterion {NAME} needs a decoder that returns its features (features_only); "
            f"use --criterion label_smoothed_cross_entropy with this model"
        )
    if decoder.adaptive_softmax is not None:
        raise ValueError(
            f"--criterion {NAME} does not work with an adaptive softmax, whose loss is another; "
            f"use --criterion adaptive_loss, or remove --adaptive-softmax-cutoff"
        )
    parallel = getattr(model, "module", None)
    if getattr(parallel, "find_unused_parameters", False) and not decoder.share_input_output_embed:
        # The projection runs outside of forward: its weight would be taken for unused.
        raise ValueError(
            f"--criterion {NAME} does not work with --find-unused-parameters unless the decoder's "
            f"embeddings are shared; remove it, or add --share-decoder-input-output-embed"
        )
