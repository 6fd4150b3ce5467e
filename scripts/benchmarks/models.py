"""Measure training steps of whole models, beside the models that they would replace.

python -m scripts.benchmarks.models translation --source FILE --target FILE
python -m scripts.benchmarks.models vision

translation: revcol_transformer_wmt_en_de beside fairseq's transformer_vaswani_wmt_en_de_big, on
batches of real sentence lengths. vision: RevCol-ViT-S and B beside timm's ViT-S and B.

All models and variants run in one process, on the same batches, in turn. Bytes are counted
(live_bytes.py): those held for the backward pass, and the most that are alive at once besides
parameters, gradients and what the optimizer keeps. They do not depend on values, so that the
larger batch of --counted is counted without computing matrix products, and half of it too; the
largest batch in --memory follows from the two, at 16 bytes per parameter (float32, gradient, Adam).
It is too large where a small --counted has its peak in another place of the step than a large one.
"""

from __future__ import annotations

import argparse
import gzip
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
from scripts.benchmarks.figure import draw
from scripts.benchmarks.steps import PRECISIONS, Batch, Variant, measure
from scripts.lib.command_line import BadInput, refusing
from scripts.lib.models import build_model, joined_task

VISION_MODELS = [
    *("vit_small_patch16_224", "revcol_vit_small_patch16_224"),
    *("vit_base_patch16_224", "revcol_vit_base_patch16_224"),
]

# Translation


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, which may be compressed."""
    reader = gzip.open if path.suffix == ".gz" else open
    with reader(path, "rt", encoding="utf-8", newline="\n") as file:
        return list(file)


def sentence_batches(
    args: argparse.Namespace, dictionary: Dictionary, texts: list[list[str]]
) -> tuple[list[Batch], list[Batch]]:
    """``--batches`` batches, evenly from short to long sentences, and two sizes of the middle."""
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
        raise BadInput(f"--counted {args.counted} holds no two sentences; take more tokens")
    halves = [middle, middle[: len(middle) // 2]]
    return [collate(timed[place]) for place in places], [collate(half) for half in halves]


def translation_variants(args: argparse.Namespace, task: TranslationTask) -> list[Variant]:
    """Both models, with and without everything that saves memory; the first is fairseq's plain.

    Checkpointed are all of fairseq's layers, which in a RevCol-Transformer are the decoder's. Its
    encoder is plain, or reversible with the last column or none kept.
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
                checkpoint_wrapper(layer)  # as --checkpoint-activations does
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


def translation(args: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Rows of the translation models."""
    texts = [read_lines(args.source), read_lines(args.target)]
    task = joined_task(args.vocabulary, chain.from_iterable(texts))
    timed, sizes = sentence_batches(args, task.source_dictionary, texts)
    return "tokens", measure(args, translation_variants(args, task), timed, sizes)


# Vision


def vision_variants(args: argparse.Namespace, names: Iterable[str]) -> Iterator[Variant]:
    """The models with and without what saves memory."""
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


def vision_models(args: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Rows of the vision models, each pair for itself."""

    def batch(size: int) -> Batch:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(size, 3, args.image_size, args.image_size, generator=generator)
        labels = torch.randint(1000, (size,), generator=generator)
        return Batch((images.to(args.device), labels.to(args.device)), size)

    timed, sizes = [batch(args.batch_size)], [batch(args.counted), batch(args.counted // 2)]
    rows = []
    for pair in zip(args.models[::2], args.models[1::2], strict=True):
        rows += measure(args, list(vision_variants(args, pair)), timed, sizes)
    return "images", rows


# What is printed


def print_table(rows: list[dict[str, Any]], unit: str, memory: float) -> None:
    """The rows in Markdown."""
    timed = "per_second" in rows[0]
    head = [*rows[0]["labels"], "parameters", f"GFLOPs per {unit[:-1]}"]
    head += [f"{unit}/s (spread)", "ratio"] if timed else []
    head += ["held, MiB", "peak, MiB", f"{unit} in {memory:g} GiB", "ratio"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
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
        print(f"| {' | '.join(cells)} |")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"])
    common.add_argument("--memory", type=float, default=16, help="in GiB (%(default)s)")
    common.add_argument(
        "--repeats", type=int, default=3, help="of what is timed; 0: only count (%(default)s)"
    )
    common.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    common.add_argument("--json", type=Path, help="write the rows to this file too")
    common.add_argument("--figure", type=Path, help="draw them into this file (.png, .svg)")
    kinds = parser.add_subparsers(dest="kind", required=True)
    text = kinds.add_parser("translation", parents=[common])
    text.add_argument("--source", type=Path, required=True, help="sentences, one a line; or .gz")
    text.add_argument("--target", type=Path, required=True, help="their translations")
    text.add_argument("--arch", default="revcol_transformer_wmt_en_de")
    text.add_argument("--beside", default="transformer_vaswani_wmt_en_de_big")
    text.add_argument("--vocabulary", type=int, default=32768)
    text.add_argument("--max-tokens", type=int, default=1024, help="in a batch (%(default)s)")
    text.add_argument("--counted", type=int, default=4096, help="tokens in a counted batch")
    text.add_argument("--batches", type=int, default=1, help="in a timed run (%(default)s)")
    text.add_argument("--chunk-tokens", type=int, default=CHUNK_TOKENS)
    images = kinds.add_parser("vision", parents=[common])
    images.add_argument("--models", nargs="+", default=VISION_MODELS, help="timm's, ours, ...")
    images.add_argument("--image-size", type=int, default=224)
    images.add_argument("--batch-size", type=int, default=4)
    images.add_argument("--counted", type=int, default=32, help="images in a counted batch")
    args = parser.parse_args()
    if args.kind == "translation":
        for path in (args.source, args.target):
            if not path.is_file():
                parser.error(f"there is no file {path}")
    elif len(args.models) % 2:
        parser.error("--models takes pairs of models")
    elif args.counted < 2:
        parser.error("--counted must be at least 2, as half of it is counted too")
    return args


@refusing(BadInput)
def main() -> None:
    """Print the table; write and draw it."""
    args = parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    unit, rows = {"translation": translation, "vision": vision_models}[args.kind](args)
    print_table(rows, unit, args.memory)
    if args.device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"\nPeak of the process, with all its models: {peak:.1f} GiB")
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items()}
        found = {"torch": torch.__version__, "settings": settings, "unit": unit, "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw(rows, unit, args.memory, args.figure)


if __name__ == "__main__":
    main()
