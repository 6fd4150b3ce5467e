"""Translate text with a fairseq checkpoint: exactly one line out for each line in, in their order.

python -m scripts.translation.translate --path CHECKPOINT --data FOLDER [FILE ...] > OUTPUT

Reads the files one after the other, or standard input. A line ends at a line feed and nowhere else.
One that cannot be translated (empty, over-long, not UTF-8) gets an empty line and a sentence on
standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from tqdm import tqdm

from scripts.lib.command_line import BadInput, positive, refusing

if TYPE_CHECKING:
    from fairseq.hub_utils import GeneratorHubInterface

# Longer lines are not cut into words at all: one word of 1 MB takes an hour to split into subwords.
BYTES_PER_TOKEN = 64


class Untranslatable(Exception):
    """Why a line gets no translation; the message goes on from "line 3"."""


def load(args: argparse.Namespace) -> GeneratorHubInterface:
    """The model that the command line asks for, ready to translate."""
    from revcol_nlp.models import RevColTransformerModel

    options = {}
    if args.tokenizer:
        options |= {"tokenizer": args.tokenizer, "moses_no_dash_splits": args.no_dash_splits}
    if args.bpe_codes:
        options |= {"bpe": "subword_nmt", "bpe_codes": str(args.bpe_codes.absolute())}
    paths = [Path(path).absolute() for path in args.path.split(os.pathsep)]
    data = (args.data or paths[0].parent).absolute()
    try:
        hub = RevColTransformerModel.from_pretrained(
            paths[0].parent, os.pathsep.join(map(str, paths)), data, **options
        )
        hub.to(args.device)
    except Exception as error:  # fairseq raises all kinds, down to Exception itself
        raise BadInput(f"cannot load {args.path}: {' '.join(str(error).split())}") from error
    hub.cfg.dataset.max_tokens, hub.cfg.dataset.batch_size = args.max_tokens, None
    hub.cfg.generation.beam, hub.cfg.generation.lenpen = args.beam, args.lenpen
    # fairseq's 200 tokens, which cut the translation of a long line short, and the line's own.
    hub.cfg.generation.max_len_a, hub.cfg.generation.max_len_b = 1, 200
    return hub


def read_lines(files: Iterable[BinaryIO], limit: int) -> Iterator[bytes]:
    """The lines of `files` with their line feeds, or of a longer one the first `limit` bytes."""
    for file in files:
        while line := file.readline(limit):
            rest = line
            while len(rest) == limit and not rest.endswith(b"\n"):
                rest = file.readline(limit)
            yield line


def encode(
    hub: GeneratorHubInterface, line: bytes, longest: int, normalize: Callable[[str], str] = str
) -> torch.Tensor:
    """The tokens of a line, end of sentence included, as an int64 tensor.

    Raises:
        Untranslatable: if there are none, more than `longest`, or bytes that are no text.
    """
    if not line.endswith(b"\n") and len(line) == BYTES_PER_TOKEN * longest:
        raise Untranslatable(f"has {len(line)} bytes or more")
    try:
        tokens = hub.encode(normalize(line.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise Untranslatable(f"is not valid UTF-8 (byte {error.start + 1})") from error
    if len(tokens) == 1:
        raise Untranslatable("is empty")
    if len(tokens) > longest:
        raise Untranslatable(f"has {len(tokens)} tokens, over {longest}")
    return tokens


def translate(
    hub: GeneratorHubInterface,
    files: Iterable[BinaryIO],
    buffer_size: int,
    progress: tqdm,
    normalize: Callable[[str], str] = str,
) -> Iterator[list[str]]:
    """Yield the translations of `buffer_size` lines at a time, which are batched by length.

    Args:
        hub: from `load`.
        files: open for reading bytes.
        progress: counts lines, and lets messages past.
        normalize: applied to each line before it is tokenised.
    """
    from fairseq import utils

    from revcol_nlp.fairseq_patches.generation import longest_source

    longest = int(longest_source(hub.max_positions, hub.cfg.dataset.max_tokens))
    lines = enumerate(read_lines(files, BYTES_PER_TOKEN * longest), start=1)
    generator = hub.task.build_generator(hub.models, hub.cfg.generation)
    while True:
        translations, tokens = {}, {}
        for number, line in islice(lines, buffer_size):
            translations[number] = ""
            try:
                tokens[number] = encode(hub, line, longest, normalize)
            except Untranslatable as fault:
                progress.write(f"line {number} {fault}: its translation is empty", sys.stderr)
                progress.update()
        if not translations:
            return
        numbers = list(tokens)
        for batch in hub._build_batches(list(tokens.values()), False) if tokens else ():
            batch = utils.apply_to_sample(lambda tensor: tensor.to(hub.device), batch)
            found = hub.task.inference_step(generator, hub.models, batch)
            for index, hypotheses in zip(batch["id"].tolist(), found, strict=True):
                translations[numbers[index]] = hub.decode(hypotheses[0]["tokens"].cpu())
            progress.update(len(found))
        yield list(translations.values())


def normalizer(args: argparse.Namespace, hub: GeneratorHubInterface) -> Callable[[str], str]:
    """What --normalize does to a line."""
    if not args.normalize:
        return str
    from sacremoses import MosesPunctNormalizer

    moses = MosesPunctNormalizer(hub.task.cfg.source_lang, perl_parity=True)
    # The Perl script that prepared the data sees the line feed, and one rule looks for it.
    return lambda line: moses.normalize(line.removesuffix("\n") + "\n")


def count_lines(paths: list[Path]) -> int | None:
    """How many lines there are, or None where reading them would use them up."""
    if not paths or not all(path.is_file() for path in paths):
        return None
    total = 0
    for path in paths:
        with path.open("rb") as file:
            total += sum(1 for _ in read_lines([file], 1 << 20))
    return total


def open_files(paths: list[Path]) -> Iterator[BinaryIO]:
    """Each file while it is read; standard input where none is named."""
    if not paths:
        yield sys.stdin.buffer
    for path in paths:
        with path.open("rb") as file:
            yield file


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="text to translate")
    parser.add_argument("--path", required=True, help="checkpoint; several with : are an ensemble")
    parser.add_argument(
        "--data", type=Path, help="folder of the dictionaries (default: the checkpoint's)"
    )
    parser.add_argument("--beam", type=positive, default=4, help="beam size (%(default)s)")
    parser.add_argument("--lenpen", type=float, default=0.6, help="length penalty (%(default)s)")
    parser.add_argument(
        "--normalize", action="store_true", help="normalise punctuation as Moses does"
    )
    parser.add_argument(
        "--tokenizer", choices=["moses"], help="tokenise here, and detokenise the translation"
    )
    parser.add_argument(
        "--no-dash-splits",
        action="store_true",
        help="let the tokenizer keep hyphenated words whole",
    )
    parser.add_argument(
        "--bpe-codes", type=Path, metavar="FILE", help="split into subwords here with these codes"
    )
    parser.add_argument(
        "--max-tokens", type=positive, default=4096, help="source tokens in a batch (%(default)s)"
    )
    parser.add_argument(
        "--buffer-size", type=positive, default=2000, help="lines held at a time (%(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raise where the command line asks for what cannot be."""
    for path in args.files:
        if not path.exists() or path.is_dir():
            raise BadInput(f"there is no file {path} to translate")
    if args.bpe_codes and not args.bpe_codes.is_file():
        raise BadInput(f"--bpe-codes names no file: {args.bpe_codes}")
    if args.no_dash_splits and not args.tokenizer:
        raise BadInput("--no-dash-splits has no effect without --tokenizer")
    if not (math.isfinite(args.lenpen) and args.lenpen >= 0):
        raise BadInput(f"--lenpen needs a number, 0 or more, not {args.lenpen}")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {args.device} cannot be used here") from error


@refusing(BadInput)
def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    args = parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", module="torch")  # of what fairseq makes of it
    output = sys.stdout.buffer
    try:
        check(args)
        with contextlib.redirect_stdout(sys.stderr):  # translations alone go to standard output
            hub = load(args)
            with tqdm(total=count_lines(args.files), unit=" lines", disable=None) as progress:
                files = open_files(args.files)
                for texts in translate(
                    hub, files, args.buffer_size, progress, normalizer(args, hub)
                ):
                    output.write("".join(f"{text}\n" for text in texts).encode("utf-8"))
                    output.flush()
    except BrokenPipeError:  # whoever read the translations has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
