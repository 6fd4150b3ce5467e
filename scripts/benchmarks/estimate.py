"""Estimate the memory, time and interconnect that a RevCol-Transformer needs on many devices.

python -m scripts.benchmarks.estimate
python -m scripts.benchmarks.estimate --model 4x768 --devices 8 --tokens 16384 --sustained 150e12

The command does not build the large models. It counts bytes and floating-point operations in
training steps of three narrow models with the same columns, decoder and dictionary, in bfloat16, on
the CPU. Both counts are polynomials in the width of degree 2 at most, so three widths determine
them for any width.
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
from scripts.lib.command_line import build_parser, positive_integer
from scripts.lib.models import build_joined_task, build_model
from scripts.lib.tables import format_table

HEAD = 64  # channels of an attention head
NARROW = (HEAD, 2 * HEAD, 3 * HEAD)
SENTENCES = 2

# Bytes per parameter of fairseq's --bf16 on each device: weight and gradient in bfloat16; weight,
# gradient and Adam's two averages in float32.
REPLICATED = 2 + 2 + 4 + 4 + 8
# Bytes per parameter of FSDP2 with a bfloat16 MixedPrecisionPolicy: weight, gradient and averages
# in float32 for shards; weight and gradient in bfloat16 for gathered parameters.
SHARDED, GATHERED = 4 + 4 + 8, 2 + 2
# Bytes per parameter that a step sends. All-reduce sends bfloat16 gradients twice. FSDP2 gathers
# bfloat16 weights in the forward and in the backward pass, and reduces gradients once.
REPLICATED_TRAFFIC, SHARDED_TRAFFIC = 2 * 2, 3 * 2


@dataclass(frozen=True)
class PerToken:
    """Counts of a training step per source token, with as many target tokens.

    Attributes:
        encoder: bytes that the reversible encoder holds for the backward pass.
        plain_encoder: bytes that it holds with --encoder-no-reversible.
        decoder: bytes that the decoder holds, without the output projection.
        softmax: bytes that output projection and loss hold.
        forward: floating-point operations of the forward pass.
        backward: floating-point operations of the backward pass, recomputation included.
    """

    encoder: float
    plain_encoder: float
    decoder: float
    softmax: float
    forward: float
    backward: float


@dataclass(frozen=True)
class Need:
    """Needs of one device.

    Attributes:
        replicated: bytes of weights, gradients and Adam's averages, DistributedDataParallel.
        sharded: bytes of the same with FSDP2, which shards columns and decoder layers.
        held: bytes of activations.
        seconds: time to compute a step.
        replicated_traffic: bytes that DistributedDataParallel sends per step.
        replicated_rate: bytes per second that hide this traffic behind the backward pass.
        sharded_rate: bytes per second that hide FSDP2's traffic behind the step.
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
    """``revcol_transformer_wmt_en_de`` in another size, heads of 64 channels and FFN ratio 4."""

    columns: int
    width: int
    decoder_layers: int
    vocabulary: int

    def build(self, width: int) -> RevColTransformerModel:
        """Build the model in bfloat16, with another ``width``."""
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
            build_joined_task(self.vocabulary),
            **sizes,
            encoder_columns=self.columns,
            decoder_layers=self.decoder_layers,
        )
        return model.bfloat16()

    def count_parameters(self) -> tuple[int, int]:
        """Count all parameters, and those that FSDP2 holds gathered.

        Gathered are the embeddings, the column in use and the next one, which is fetched meanwhile.
        """
        with torch.device("meta"):
            model = self.build(self.width)
        column, embedding = model.encoder.revcol.columns[-1], model.encoder.embed_tokens
        counts = [sum(p.numel() for p in part.parameters()) for part in (model, column, embedding)]
        return counts[0], 2 * counts[1] + counts[2]

    def extrapolate(self, length: int) -> PerToken:
        """Measure narrow models and extrapolate the counts to ``width``."""
        counted = [astuple(self.measure(width, length)) for width in NARROW]
        fits = (Polynomial.fit(NARROW, values, 2) for values in zip(*counted, strict=True))
        return PerToken(*(fit(self.width) for fit in fits))

    def measure(self, width: int, length: int) -> PerToken:
        """Count a training step of a model of ``width``, on sentences of ``length`` tokens."""
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

        def count_held(step: Callable[[], Tensor]) -> float:
            return count_held_bytes(step, list(model.parameters())) / tokens.numel()

        encoder, decoder, whole = count_held(encode), count_held(decode), count_held(train)
        # The FLOP counter fails on reversible columns. So count the plain model, and add
        # the forward pass of all columns that a reversible backward pass recomputes.
        revcol = model.encoder.revcol
        revcol.reversible = False
        with FlopCounterMode(display=False) as counter:
            loss = train()
            forward = counter.get_total_flops()
            prefix = f"{type(model).__name__}.encoder.revcol.columns."
            recomputed = sum(
                sum(counter.get_flop_counts()[f"{prefix}{column}"].values())
                for column in range(self.columns - revcol.keep_columns)
            )
            loss.backward()
            backward = counter.get_total_flops() - forward + recomputed
        return PerToken(
            encoder,
            count_held(encode),
            decoder - encoder,
            whole - decoder,
            forward / tokens.numel(),
            backward / tokens.numel(),
        )


def compute_need(
    parameters: int, gathered: int, figures: PerToken, devices: int, tokens: int, sustained: float
) -> Need:
    """Compute the needs of one of ``devices``.

    Args:
        parameters: number of parameters.
        gathered: number of those that FSDP2 holds gathered.
        figures: counts per token.
        devices: number of devices.
        tokens: source tokens of a device in a step.
        sustained: floating-point operations per second of a device.
    """
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


def parse_size(text: str) -> tuple[int, int]:
    """Parse ``COLUMNSxWIDTH``, for argparse."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None or int(found[2]) % HEAD:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not COLUMNSxWIDTH with a width that is a multiple of {HEAD}, like 4x768"
        )
    return int(found[1]), int(found[2])


def main() -> None:
    """Run the command."""
    parser = build_parser(__spec__.name, __doc__)
    parser.add_argument(
        "--model",
        type=parse_size,
        nargs="+",
        default=[(4, 768), (6, 1536), (10, 4096)],
        metavar="COLUMNSxWIDTH",
        help="sizes of the encoder (default: 4x768 6x1536 10x4096)",
    )
    count = {"type": positive_integer}
    parser.add_argument(
        "--decoder-layers", **count, default=6, help="decoder layers (default: %(default)s)"
    )
    parser.add_argument(
        "--vocabulary",
        **count,
        default=32768,
        help="entries of the joined dictionary (default: %(default)s)",
    )
    parser.add_argument(
        "--devices",
        **count,
        nargs="+",
        default=[8, 64, 512],
        help="numbers of devices (default: 8 64 512)",
    )
    parser.add_argument(
        "--tokens",
        **count,
        default=8192,
        help="source tokens, and target tokens, per device and step (default: %(default)s)",
    )
    parser.add_argument(
        "--length", **count, default=32, help="tokens in a sentence (default: %(default)s)"
    )
    parser.add_argument(
        "--sustained",
        type=float,
        default=400e12,
        help="assumed floating-point operations per second of a device (default: 400e12)",
    )
    args = parser.parse_args()
    models = [Model(*model, args.decoder_layers, args.vocabulary) for model in args.model]
    parameters = [model.count_parameters() for model in models]
    figures = [model.extrapolate(args.length) for model in models]

    print("Per source token: KiB held for the backward pass, by part; GFLOPs of both passes\n")
    header = ("columns x width", "parameters", "encoder", "plain encoder", "decoder", "softmax")
    rows = []
    for model, (count, _), found in zip(models, parameters, figures, strict=True):
        held = (found.encoder, found.plain_encoder, found.decoder, found.softmax)
        row = [f"{model.columns} x {model.width}", f"{count / 1e6:.1f}M"]
        row += [f"{value / 2**10:.0f}" for value in held]
        row += [f"{value / 1e9:.2f}" for value in (found.forward, found.backward)]
        rows.append(row)
    print(format_table((*header, "forward", "backward"), rows))

    print(
        f"\nPer device, with {args.tokens} tokens in a step and {args.sustained / 1e12:g} TFLOP/s."
        "\nDDP, FSDP2: GiB of weights, gradients and Adam's averages. Activations: GiB."
        "\nStep: seconds of computing. Sent by DDP: GB per step. DDP rate: GB/s each way that hide"
        "\nthe traffic behind the backward pass. FSDP2 rate: GB/s that hide it behind the step.\n"
    )
    header = ("columns x width", "devices", "DDP", "FSDP2", "activations", "step", "sent by DDP")
    rows = []
    for model, counts, found in zip(models, parameters, figures, strict=True):
        for devices in args.devices:
            n = compute_need(*counts, found, devices, args.tokens, args.sustained)
            row = [f"{model.columns} x {model.width}", str(devices)]
            row += [f"{value / 2**30:.1f}" for value in (n.replicated, n.sharded, n.held)]
            row += [f"{n.seconds:.3f}", f"{n.replicated_traffic / 1e9:.1f}"]
            row += [f"{value / 1e9:.0f}" for value in (n.replicated_rate, n.sharded_rate)]
            rows.append(row)
    print(format_table((*header, "DDP rate", "FSDP2 rate"), rows))


if __name__ == "__main__":
    main()
