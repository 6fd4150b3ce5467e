"""Measure beam search: tokens per second of a RevCol-Transformer beside fairseq's transformers.

python -m scripts.benchmarks.decoding --input FILE [--arch ARCH] [--layers 16 6] [--beside ARCH ...]

Translates the same sentences with each model in turn, in one process. The first is ARCH. --layers
are transformers of its widths and with its decoder, whose encoders have so many layers; --beside
are any other architectures. Weights are random, so every translation is given the same length.
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
from scripts.benchmarks.timing import in_turn, median_ratio
from scripts.lib.models import build_model, joined_task

WIDTHS = [
    *("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_attention_heads", "decoder_layers"),
    *("share_all_embeddings", "share_decoder_input_output_embed"),
]


def build(arch: str, task: TranslationTask, **options: object) -> BaseFairseqModel:
    """A model with random weights, ready to translate."""
    model = build_model(arch, task, **options).eval()
    model.prepare_for_inference_(FairseqConfig())
    return model


def models(args: argparse.Namespace, task: TranslationTask) -> dict[str, BaseFairseqModel]:
    """The models to compare, by name; the first is the one that the others are measured against."""
    ours = Namespace()
    fill_preset(ours, PRESETS[args.arch])
    widths = {name: getattr(ours, name) for name in WIDTHS}
    found = {args.arch: build(args.arch, task)}
    for layers in args.layers:
        name = f"transformer, {layers} encoder layers"
        found[name] = build("transformer", task, encoder_layers=layers, **widths)
    for arch in args.beside:
        found[arch] = build(arch, task, share_all_embeddings=widths["share_all_embeddings"])
    return {name: model.to(args.device) for name, model in found.items()}


def read_task(args: argparse.Namespace) -> tuple[TranslationTask, list[torch.Tensor]]:
    """A task with a joined dictionary of `--vocabulary` entries, and the sentences of the file."""
    with args.input.open(encoding="utf-8", newline="\n") as file:
        lines = list(islice((line for line in file if line.strip()), args.lines))
    task = joined_task(args.vocabulary, lines)
    encode_line = task.source_dictionary.encode_line
    return task, [encode_line(line, add_if_not_exist=False).long() for line in lines]


def decode(
    args: argparse.Namespace,
    task: TranslationTask,
    model: BaseFairseqModel,
    sentences: list[torch.Tensor],
) -> Callable[[], int]:
    """What translates all sentences and returns how many tokens came out."""
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
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, help="sentences, one a line")
    parser.add_argument("--arch", default="revcol_transformer_wmt_en_de", choices=PRESETS)
    parser.add_argument("--layers", type=int, nargs="*", default=[16, 6])
    parser.add_argument("--beside", nargs="*", default=[], choices=ARCH_MODEL_REGISTRY)
    parser.add_argument("--lines", type=int, default=32, help="how many of them (%(default)s)")
    parser.add_argument("--length", type=int, default=25, help="of a translation (%(default)s)")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--max-tokens", type=int, default=1024, help="in a batch (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if not args.input.is_file() or not args.input.read_text(encoding="utf-8").strip():
        parser.error(f"--input names no file with a sentence: {args.input}")
    return args


def main() -> None:
    """Print the table."""
    args = parse_args()
    task, sentences = read_task(args)
    built = models(args, task)
    runs = {name: decode(args, task, model, sentences) for name, model in built.items()}
    seconds, returned = in_turn(runs, args.repeats, args.device)
    tokens = returned[args.arch]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    print(f"{len(sentences)} sentences, {tokens} tokens out, beam {args.beam}\n")
    print("| model | parameters | tokens/s | time against the first |")
    print("|---|---|---|---|")
    for name, times in seconds.items():
        millions = sum(p.numel() for p in built[name].parameters()) / 1e6
        ratio = median_ratio(times, seconds[args.arch])
        speed = tokens / statistics.median(times)
        print(f"| {name} | {millions:.1f}M | {speed:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
