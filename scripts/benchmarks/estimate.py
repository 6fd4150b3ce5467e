"""Estimate what a RevCol-Transformer needs on many devices: memory, time, interconnect.

python -m scripts.benchmarks.estimate
python -m scripts.benchmarks.estimate --model 4x768 --devices 8 --tokens 16384 --sustained 150e12

Nothing of the size asked for is allocated. Bytes held and floating-point operations are counted in
training steps of three narrow models with the same columns, decoder and dictionary, in bfloat16,
on the CPU. Both are polynomials in the width of degree 2 at most, and so follow for any width.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from numpy.polynomial import Polynomial
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from revcol_nlp.columns.verify import count_held_bytes
from revcol_nlp.models import RevColTransformerModel
from scripts.lib.models import build_model, joined_task

HEAD = 64  # channels
NARROW = (HEAD, 2 * HEAD, 3 * HEAD)
SENTENCES = 2

# Bytes per parameter. fairseq's --bf16 on each device: weight and gradient in bfloat16; both again,
# and Adam's two averages, in float32.
REPLICATED = 2 + 2 + 4 + 4 + 8
# FSDP2 with a bfloat16 MixedPrecisionPolicy: float32 weight, gradient and averages, in shards, and
# a bfloat16 weight and gradient of what is gathered.
SHARDED, GATHERED = 4 + 4 + 8, 2 + 2
# All-reduce of bfloat16 gradients sends them twice; FSDP2 gathers bfloat16 weights in the forward
# and in the backward pass, and reduces gradients once.
REPLICATED_TRAFFIC, SHARDED_TRAFFIC = 2 * 2, 3 * 2


@dataclass(frozen=True)
class PerToken:
    """Of a training step, per token of the source, with as many of the target.

    Attributes:
        encoder: bytes held for the backward pass, reversible.
        plain_encoder: the same with --encoder-no-reversible.
        decoder: without the output projection.
        softmax: output projection and loss.
        forward: floating-point operations.
        backward: the same, what is computed anew included.
    """

    encoder: float
    plain_encoder: float
    decoder: float
    softmax: float
    forward: float
    backward: float


@dataclass(frozen=True)
class Need:
    """Of one device; bytes, seconds, bytes per second.

    Attributes:
        replicated: weights, gradients and Adam's averages under DistributedDataParallel.
        sharded: the same under FSDP2, over columns and decoder layers.
        held: activations.
        seconds: of computing a step.
        replicated_traffic: sent per step.
        replicated_rate: at which that hides behind the backward pass.
        sharded_rate: at which FSDP2's traffic hides behind the step.
    """

    replicated: float
    sharded: float
    held: float
    seconds: float
    replicated_traffic: float
    replicated_rate: float
    sharded_rate: float


@dataclass(frozen=True)
class Model:
    """``revcol_transformer_wmt_en_de`` of another size: heads of 64 channels, FFN ratio 4."""

    columns: int
    width: int
    decoder_layers: int
    vocabulary: int

    def build(self, width: int) -> RevColTransformerModel:
        sizes = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in (
                ("embed_dim", width),
                ("ffn_embed_dim", 4 * width),
                ("attention_heads", width // HEAD),
            )
        }
        model = build_model(
            "revcol_transformer_wmt_en_de",
            joined_task(self.vocabulary),
            **sizes,
            encoder_columns=self.columns,
            decoder_layers=self.decoder_layers,
        )
        return model.bfloat16()

    def parameters(self) -> tuple[int, int]:
        """How many there are, and how many of them FSDP2 holds gathered: the embeddings, the
        column in use and the one fetched meanwhile."""
        with torch.device("meta"):
            model = self.build(self.width)
        column, embedding = model.encoder.revcol.columns[-1], model.encoder.embed_tokens
        counts = [sum(p.numel() for p in part.parameters()) for part in (model, column, embedding)]
        return counts[0], 2 * counts[1] + counts[2]

    def per_token(self, length: int) -> PerToken:
        """Measured in sentences of ``length`` tokens, without padding."""
        counted = [astuple(self._measure(width, length)) for width in NARROW]
        fits = (Polynomial.fit(NARROW, values, 2) for values in zip(*counted, strict=True))
        return PerToken(*(fit(self.width) for fit in fits))

    def _measure(self, width: int, length: int) -> PerToken:
        model = self.build(width).train()
        tokens = torch.randint(4, self.vocabulary, (SENTENCES, length))
        pad = model.decoder.padding_idx

        def encode() -> Tensor:
            return model.encoder(tokens)["encoder_out"][0].sum()

        def decode() -> Tensor:
            return model(tokens, None, tokens, features_only=True)[0].sum()

        def train() -> Tensor:
            scores = model.get_normalized_probs(model(tokens, None, tokens), log_probs=True)
            return label_smoothed_nll_loss(
                scores.flatten(0, 1), tokens.view(-1, 1), 0.1, ignore_index=pad
            )[0]

        def held(step: Callable[[], Tensor]) -> float:
            return count_held_bytes(step, list(model.parameters())) / tokens.numel()

        encoder, decoder, whole = held(encode), held(decode), held(train)
        # Of plain columns, and the kept last one apart, all of which are computed once more: the
        # counter does not go together with reversible ones.
        revcol = model.encoder.revcol
        revcol.reversible = False
        with FlopCounterMode(display=False) as counter:
            loss = train()
            forward = counter.get_total_flops()
            prefix = f"{type(model).__name__}.encoder.revcol.columns."
            again = sum(
                sum(counter.get_flop_counts()[f"{prefix}{column}"].values())
                for column in range(self.columns - revcol.keep_columns)
            )
            loss.backward()
            backward = counter.get_total_flops() - forward + again
        return PerToken(
            encoder,
            held(encode),
            decoder - encoder,
            whole - decoder,
            forward / tokens.numel(),
            backward / tokens.numel(),
        )


def need(
    parameters: int, gathered: int, figures: PerToken, devices: int, tokens: int, sustained: float
) -> Need:
    """``tokens`` and ``sustained``, floating-point operations per second, are those of a device."""
    sent = parameters * (devices - 1) / devices
    backward = figures.backward * tokens / sustained
    seconds = figures.forward * tokens / sustained + backward
    return Need(
        replicated=parameters * REPLICATED,
        sharded=parameters * SHARDED / devices + gathered * GATHERED,
        held=(figures.encoder + figures.decoder + figures.softmax) * tokens,
        seconds=seconds,
        replicated_traffic=sent * REPLICATED_TRAFFIC,
        replicated_rate=sent * REPLICATED_TRAFFIC / backward,
        sharded_rate=sent * SHARDED_TRAFFIC / seconds,
    )


def size(text: str) -> tuple[int, int]:
    """``COLUMNSxWIDTH``."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None or int(found[2]) % HEAD:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no COLUMNSxWIDTH with a width that is a multiple of {HEAD}, like 4x768"
        )
    return int(found[1]), int(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=size,
        nargs="+",
        default=[(4, 768), (6, 1536), (10, 4096)],
        metavar="COLUMNSxWIDTH",
        help="default: 4x768 6x1536 10x4096",
    )
    parser.add_argument("--decoder-layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=32768, help="joined dictionary")
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--tokens", type=int, default=8192, help="per device and step, each side")
    parser.add_argument("--length", type=int, default=32, help="tokens in a sentence")
    parser.add_argument(
        "--sustained",
        type=float,
        default=400e12,
        help="floating-point operations per second that a device sustains (an assumption)",
    )
    args = parser.parse_args()
    models = [Model(*model, args.decoder_layers, args.vocabulary) for model in args.model]
    parameters = [model.parameters() for model in models]
    figures = [model.per_token(args.length) for model in models]

    print("Per token of each side: KiB held for the backward pass, GFLOP\n")
    print("| columns x width | parameters | encoder | plain encoder | decoder | softmax | ", end="")
    print("forward | backward |\n" + "|---" * 8 + "|")
    for model, (count, _), found in zip(models, parameters, figures, strict=True):
        held = (found.encoder, found.plain_encoder, found.decoder, found.softmax)
        row = [f"{model.columns} x {model.width}", f"{count / 1e6:.1f}M"]
        row += [f"{value / 2**10:.0f}" for value in held]
        row += [f"{value / 1e9:.2f}" for value in (found.forward, found.backward)]
        print(f"| {' | '.join(row)} |")

    print(
        f"\nPer device, {args.tokens} tokens in a step, {args.sustained / 1e12:g} TFLOP/s: GiB of"
    )
    print("weights, gradients and Adam's averages, and of activations; seconds of computing; GB")
    print("sent, and GB/s each way that hide DDP's behind the backward pass, FSDP2's in the step\n")
    print("| columns x width | devices | DDP | FSDP2 | activations | step | sent by DDP | ", end="")
    print("DDP | FSDP2 |\n" + "|---" * 9 + "|")
    for model, counts, found in zip(models, parameters, figures, strict=True):
        for devices in args.devices:
            n = need(*counts, found, devices, args.tokens, args.sustained)
            row = [f"{model.columns} x {model.width}", str(devices)]
            row += [f"{value / 2**30:.1f}" for value in (n.replicated, n.sharded, n.held)]
            row += [f"{n.seconds:.3f}", f"{n.replicated_traffic / 1e9:.1f}"]
            row += [f"{value / 1e9:.0f}" for value in (n.replicated_rate, n.sharded_rate)]
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
