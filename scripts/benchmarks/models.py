"""Measure training steps of whole models, and of the models that they would replace.

python -m scripts.benchmarks.models translation --source FILE --target FILE
python -m scripts.benchmarks.models vision

translation: compares revcol_transformer_wmt_en_de with fairseq's transformer_vaswani_wmt_en_de_big
on batches of real sentence lengths. vision: compares RevCol-ViT-S and -B with timm's ViT-S and -B.

All models and variants run in one process, on the same batches, in turn. Bytes are counted by
live_bytes.py: those held for the backward pass, and those at the peak of the step, in both cases
without parameters, gradients and the state of the optimizer. Bytes do not depend on values, so they
are counted without computing matrix products, on a batch of --counted tokens or images and on half
of it. The largest batch in --memory is extrapolated from these two, at 16 bytes per parameter
(float32 weight, gradient, Adam). It is overestimated if a small --counted has its peak in another
place of the step than a large one.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.modules.checkpoint_activations import checkpoint_wrapper, unwrap_checkpoint
from fairseq.tasks.translation import TranslationTask
from torch import Tensor, nn

import vision  # noqa: F401 (registers the models)
from revcol_nlp.columns.stack import KEEP_COLUMNS
from revcol_nlp.criterions.chunked_cross_entropy import CHUNK_TOKENS
from revcol_nlp.criterions.chunked_cross_entropy import NAME as CHUNKED
from scripts.benchmarks.figure import draw_models
from scripts.benchmarks.steps import PRECISIONS, Batch, Variant, measure_variants
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

VISION_MODELS = [
    *("vit_small_patch16_224", "revcol_vit_small_patch16_224"),
    *("vit_base_patch16_224", "revcol_vit_base_patch16_224"),
]

# Translation


def build_sentence_batches(
    args: argparse.Namespace, dictionary: Dictionary, texts: list[list[str]]
) -> tuple[list[Batch], list[Batch]]:
    """Build batches from sorted sentence pairs.

    Returns:
        ``--batches`` batches for timing, evenly from short to long sentences; and for counting, a
        batch of medium length and one half of it.
    """
    sides = [
        [dictionary.encode_line(line, add_if_not_exist=False).long() for line in text]
        for text in texts
    ]
    lengths = [[len(tokens) for tokens in side] for side in sides]
    dataset = LanguagePairDataset(
        sides[0], lengths[0], dictionary, sides[1], lengths[1], dictionary, shuffle=False
    )
    timed, counted = (
        dataset.batch_by_size(
            dataset.ordered_indices(), max_tokens=size, required_batch_size_multiple=8
        )
        for size in (args.max_tokens, args.counted)
    )

    def collate(indices: list[int]) -> Batch:
        sample = dataset.collater([dataset[index] for index in indices])
        sample = utils.apply_to_sample(lambda tensor: tensor.to(args.device), sample)
        return Batch(sample, sample["ntokens"])

    places = [int((n + 0.5) / args.batches * len(timed)) for n in range(args.batches)]
    middle = counted[len(counted) // 2]
    if len(middle) < 2:
        raise BadInput(f"--counted {args.counted} is too small for two sentences; use more tokens")
    halves = [middle, middle[: len(middle) // 2]]
    return [collate(timed[place]) for place in places], [collate(half) for half in halves]


def build_translation_variants(args: argparse.Namespace, task: TranslationTask) -> list[Variant]:
    """Build both models with all combinations of the options that save memory.

    The first variant is fairseq's model without any of them. Checkpointing applies to all of
    fairseq's layers, which in a RevCol-Transformer are those of the decoder. The encoder is plain,
    or reversible with the last column kept or none.
    """
    criteria = {"ordinary": "label_smoothed_cross_entropy", "chunked": CHUNKED}
    variants = []
    for arch in (args.beside, args.arch):
        model = build_model(arch, task, share_all_embeddings=True).to(args.device).train()
        revcol = getattr(model.encoder, "revcol", None)
        layers = [*model.decoder.layers, *model.encoder.layers]

        def prepare(
            encoder: str,
            checkpointed: bool,
            model: nn.Module = model,
            revcol: nn.Module | None = revcol,
            layers: list[nn.Module] = layers,
        ) -> None:
            unwrap_checkpoint(model)
            for layer in layers if checkpointed else []:
                checkpoint_wrapper(layer)  # like --checkpoint-activations
            if revcol is not None:
                revcol.reversible = encoder != "plain"
                revcol.keep_columns = 0 if encoder == "none kept" else KEEP_COLUMNS

        modes = ["plain"] if revcol is None else ["reversible", "none kept", "plain"]
        for encoder, checkpointed, name in product(modes, (False, True), criteria):
            options = {"chunk_tokens": args.chunk_tokens} if name == "chunked" else {}
            criterion = CRITERION_REGISTRY[criteria[name]](task, False, 0.1, **options)
            labels = {
                "model": arch,
                "encoder": encoder,
                "layers": "checkpointed" if checkpointed else "kept",
                "criterion": name,
            }
            variants.append(
                Variant(
                    labels,
                    model,
                    partial(prepare, encoder, checkpointed),
                    lambda sample, model=model, criterion=criterion: criterion(model, sample)[0],
                    {
                        "encoder": model.encoder,
                        "decoder": model.decoder,
                        "logits": model.decoder.output_projection,
                    },
                )
            )
    return variants


def measure_translation(args: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Measure the translation models; return the unit of a batch, and the rows."""
    texts = [read_lines(args.source), read_lines(args.target)]
    task = build_joined_task(args.vocabulary, chain.from_iterable(texts))
    timed, sizes = build_sentence_batches(args, task.source_dictionary, texts)
    variants = build_translation_variants(args, task)
    return "tokens", measure_variants(args, variants, timed, sizes)


# Vision


def build_vision_variants(args: argparse.Namespace, names: Iterable[str]) -> Iterator[Variant]:
    """Build the named models with and without the options that save memory."""
    for name in names:
        torch.manual_seed(0)
        model = timm.create_model(name, img_size=args.image_size).to(args.device).train()
        revcol = getattr(model, "revcol", None)
        modes = {"plain": (False, False), "checkpointing": (False, True)}
        if revcol is not None:
            modes = {"reversible": (True, False), "checkpointing": (True, True)}
            modes |= {"plain": (False, False)}
        for mode, (reversible, checkpointed) in modes.items():

            def prepare(
                reversible: bool = reversible,
                checkpointed: bool = checkpointed,
                model: nn.Module = model,
                revcol: nn.Module | None = revcol,
            ) -> None:
                model.set_grad_checkpointing(checkpointed)
                if revcol is not None:
                    revcol.reversible = reversible

            def loss(inputs: tuple[Tensor, Tensor], model: nn.Module = model) -> Tensor:
                return F.cross_entropy(model(inputs[0]), inputs[1])

            yield Variant({"model": name, "mode": mode}, model, prepare, loss, {})


def measure_vision(args: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Measure the vision models pair by pair; return the unit of a batch, and the rows."""

    def make_batch(size: int) -> Batch:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(size, 3, args.image_size, args.image_size, generator=generator)
        labels = torch.randint(1000, (size,), generator=generator)
        return Batch((images.to(args.device), labels.to(args.device)), size)

    timed = [make_batch(args.batch_size)]
    sizes = [make_batch(args.counted), make_batch(args.counted // 2)]
    rows = []
    for pair in zip(args.models[::2], args.models[1::2], strict=True):
        rows += measure_variants(args, list(build_vision_variants(args, pair)), timed, sizes)
    return "images", rows


# The command


def print_table(rows: list[dict[str, Any]], unit: str, memory: float) -> None:
    """Print the rows in Markdown."""
    timed = "per_second" in rows[0]
    head = [*rows[0]["labels"], "parameters", f"GFLOPs per {unit[:-1]}"]
    head += [f"{unit}/s (spread)", "ratio"] if timed else []
    head += ["held, MiB", "peak, MiB", f"{unit} in {memory:g} GiB", "ratio"]
    table = []
    for row in rows:
        held = {part: f"{count / 2**20:.1f}" for part, count in row["held"].items()}
        parts = ", ".join(f"{part} {count}" for part, count in held.items())
        cells = [
            *row["labels"].values(),
            f"{row['parameters'] / 1e6:.1f}M",
            f"{row['gflops']:.2f}",
        ]
        if timed:
            low, high = row["per_second_spread"]
            cells += [f"{row['per_second']:.4g} ({low:.4g} to {high:.4g})"]
            cells += [f"{row['speed_ratio']:.2f}"]
        cells += [
            f"{sum(row['held'].values()) / 2**20:.1f}" + (f": {parts}" if len(held) > 1 else ""),
            f"{sum(row['peak'].values()) / 2**20:.1f}",
            f"{row['largest_batch']:,}",
            f"{row['batch_ratio']:.2f}",
        ]
        table.append(cells)
    print(format_table(head, table))


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser(__spec__.name, __doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["float32"],
        help="precisions to measure (default: float32)",
    )
    common.add_argument(
        "--memory", type=float, default=16, help="GiB for the largest batch (default: %(default)s)"
    )
    common.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="number of timed steps; 0 only counts bytes and FLOPs (default: %(default)s)",
    )
    add_device_option(common)
    common.add_argument("--json", type=Path, help="also write the rows to this file")
    common.add_argument("--figure", type=Path, help="also draw the rows, to a .png or .svg file")
    kinds = parser.add_subparsers(dest="kind", required=True)
    count = {"type": positive_integer}
    help = "measure translation models"
    text = kinds.add_parser("translation", parents=[common], help=help, description=help)
    text.add_argument(
        "--source", type=Path, required=True, help="sentences, one per line; may be gzipped (.gz)"
    )
    text.add_argument("--target", type=Path, required=True, help="translations of the sentences")
    text.add_argument(
        "--arch",
        default="revcol_transformer_wmt_en_de",
        help="architecture to measure (default: %(default)s)",
    )
    text.add_argument(
        "--beside",
        default="transformer_vaswani_wmt_en_de_big",
        help="architecture to compare with (default: %(default)s)",
    )
    text.add_argument(
        "--vocabulary",
        **count,
        default=32768,
        help="entries of the joined dictionary (default: %(default)s)",
    )
    text.add_argument(
        "--max-tokens", **count, default=1024, help="tokens in a timed batch (default: %(default)s)"
    )
    text.add_argument(
        "--counted", **count, default=4096, help="tokens in a counted batch (default: %(default)s)"
    )
    text.add_argument(
        "--batches", **count, default=1, help="batches in a timed step (default: %(default)s)"
    )
    text.add_argument(
        "--chunk-tokens",
        **count,
        default=CHUNK_TOKENS,
        help="tokens in a chunk of the chunked criterion (default: %(default)s)",
    )
    help = "measure vision models"
    images = kinds.add_parser("vision", parents=[common], help=help, description=help)
    images.add_argument(
        "--models",
        nargs="+",
        default=VISION_MODELS,
        help="pairs of timm models; ratios are relative to the first of a pair "
        "(default: ViT-S and RevCol-ViT-S, ViT-B and RevCol-ViT-B)",
    )
    images.add_argument(
        "--image-size", **count, default=224, help="width in pixels (default: %(default)s)"
    )
    images.add_argument(
        "--batch-size", **count, default=4, help="images in a timed step (default: %(default)s)"
    )
    images.add_argument(
        "--counted", **count, default=32, help="images in a counted batch (default: %(default)s)"
    )
    args = parser.parse_args()
    if args.kind == "translation":
        for path in (args.source, args.target):
            if not path.is_file():
                parser.error(f"there is no file {path}")
    elif len(args.models) % 2:
        parser.error("--models needs pairs of models, so an even number")
    elif args.counted < 2:
        parser.error("--counted must be at least 2, since half of it is counted too")
    return args


@report_errors(BadInput)
def main() -> None:
    """Run the command."""
    args = parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    unit, rows = {"translation": measure_translation, "vision": measure_vision}[args.kind](args)
    print_table(rows, unit, args.memory)
    if args.device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"\nPeak memory of the process, which holds all models: {peak:.1f} GiB")
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items()}
        found = {"torch": torch.__version__, "settings": settings, "unit": unit, "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw_models(rows, unit, args.memory, args.figure)


if __name__ == "__main__":
    main()
