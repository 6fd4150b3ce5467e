"""Measure the speed of beam search of a RevCol-Transformer and of fairseq's transformers.

python -m scripts.benchmarks.decoding --input FILE [--arch ARCH] [--layers 16 6] [--beside ARCH ...]

The command translates the same sentences with each model in turn, in one process. Weights are
random, so all translations get the same fixed length.
"""

from __future__ import annotations

import argparse
import statistics
from argparse import Namespace
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from fairseq import utils
from fairseq.dataclass.configs import FairseqConfig, GenerationConfig
from fairseq.models import ARCH_MODEL_REGISTRY, BaseFairseqModel
from fairseq.tasks.translation import TranslationTask

from revcol_nlp.models.config import PRESETS, fill_preset
from scripts.benchmarks.timing import median_ratio, time_in_turn
from scripts.lib.command_line import (
    BadInput,
    add_device_option,
    build_parser,
    positive_integer,
    report_errors,
)
from scripts.lib.corpus_files import read_lines
from scripts.lib.models import build_joined_task, build_model
from scripts.lib.tables import format_table

WIDTHS = [
    *("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_attention_heads", "decoder_layers"),
    *("share_all_embeddings", "share_decoder_input_output_embed"),
]


def build_for_inference(arch: str, task: TranslationTask, **options: object) -> BaseFairseqModel:
    """Build a model with random weights, ready to translate."""
    model = build_model(arch, task, **options).eval()
    model.prepare_for_inference_(FairseqConfig())
    return model


def build_models(args: argparse.Namespace, task: TranslationTask) -> dict[str, BaseFairseqModel]:
    """Build the models to compare, by name; ratios are relative to the first one."""
    ours = Namespace()
    fill_preset(ours, PRESETS[args.arch])
    widths = {name: getattr(ours, name) for name in WIDTHS}
    found = {args.arch: build_for_inference(args.arch, task)}
    for layers in args.layers:
        name = f"transformer, {layers} encoder layers"
        found[name] = build_for_inference("transformer", task, encoder_layers=layers, **widths)
    for arch in args.beside:
        shared = widths["share_all_embeddings"]
        found[arch] = build_for_inference(arch, task, share_all_embeddings=shared)
    return {name: model.to(args.device) for name, model in found.items()}


def read_task(args: argparse.Namespace) -> tuple[TranslationTask, list[torch.Tensor]]:
    """Build a task with a joined dictionary of ``--vocabulary`` entries, and encode the sentences.

    Raises:
        BadInput: if the file has no sentences.
    """
    lines = list(islice((line for line in read_lines(args.input) if line.strip()), args.lines))
    if not lines:
        raise BadInput(f"{args.input} has no sentences")
    task = build_joined_task(args.vocabulary, lines)
    encode_line = task.source_dictionary.encode_line
    return task, [encode_line(line, add_if_not_exist=False).long() for line in lines]


def build_decoding_run(
    args: argparse.Namespace,
    task: TranslationTask,
    model: BaseFairseqModel,
    sentences: list[torch.Tensor],
) -> Callable[[], int]:
    """Build a function that translates all sentences and returns how many tokens it generated."""
    generator = task.build_generator(
        [model],
        GenerationConfig(
            beam=args.beam, lenpen=0.6, min_len=args.length, max_len_a=0, max_len_b=args.length
        ),
    )
    lengths = torch.tensor([len(tokens) for tokens in sentences])
    batches = task.get_batch_iterator(
        task.build_dataset_for_inference(sentences, lengths), max_tokens=args.max_tokens
    )

    def run() -> int:
        total = 0
        for batch in batches.next_epoch_itr(shuffle=False):
            batch = utils.apply_to_sample(lambda tensor: tensor.to(args.device), batch)
            found = task.inference_step(generator, [model], batch)
            total += sum(len(hypotheses[0]["tokens"]) for hypotheses in found)
        return total

    return run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser(__spec__.name, __doc__)
    count = {"type": positive_integer}
    parser.add_argument(
        "--input", type=Path, required=True, help="sentences, one per line; may be gzipped (.gz)"
    )
    parser.add_argument(
        "--arch",
        default="revcol_transformer_wmt_en_de",
        choices=PRESETS,
        metavar="ARCH",
        help="RevCol architecture, the first model (default: %(default)s)",
    )
    parser.add_argument(
        "--layers",
        **count,
        nargs="*",
        default=[16, 6],
        metavar="N",
        help="compare with transformers that have the widths and the decoder of ARCH, and N "
        "encoder layers (default: 16 6)",
    )
    parser.add_argument(
        "--beside",
        nargs="*",
        default=[],
        choices=ARCH_MODEL_REGISTRY,
        metavar="ARCH",
        help="compare with these architectures of fairseq, too",
    )
    parser.add_argument(
        "--lines", **count, default=32, help="number of sentences (default: %(default)s)"
    )
    parser.add_argument(
        "--length", **count, default=25, help="tokens of each translation (default: %(default)s)"
    )
    parser.add_argument("--beam", **count, default=4, help="beam size (default: %(default)s)")
    parser.add_argument(
        "--vocabulary",
        **count,
        default=32768,
        help="entries of the joined dictionary (default: %(default)s)",
    )
    parser.add_argument(
        "--max-tokens", **count, default=1024, help="tokens in a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", **count, default=3, help="number of timed runs (default: %(default)s)"
    )
    add_device_option(parser)
    return parser.parse_args()


@report_errors(BadInput)
def main() -> None:
    """Run the command."""
    args = parse_args()
    task, sentences = read_task(args)
    built = build_models(args, task)
    runs = {name: build_decoding_run(args, task, model, sentences) for name, model in built.items()}
    seconds, returned = time_in_turn(runs, args.repeats, args.device)
    tokens = returned[args.arch]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    print(f"{len(sentences)} sentences, {tokens} generated tokens, beam {args.beam}\n")
    rows = []
    for name, times in seconds.items():
        millions = sum(p.numel() for p in built[name].parameters()) / 1e6
        ratio = median_ratio(times, seconds[args.arch])
        speed = tokens / statistics.median(times)
        rows.append((name, f"{millions:.1f}M", f"{speed:.1f}", f"{ratio:.2f}"))
    print(format_table(("model", "parameters", "tokens/s", "time relative to the first"), rows))


if __name__ == "__main__":
    main()
