"""Translate text with a fairseq checkpoint, one line of output for each line of input.

python -m scripts.translation.translate --path CHECKPOINT --data FOLDER [FILE ...] > OUTPUT

The command reads the files one after the other, or standard input. Lines end at line feeds only. If
a line cannot be translated (it is empty, too long or not UTF-8), its translation is an empty line
and a message on standard error gives the reason.
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

from scripts.lib.command_line import (
    BadInput,
    add_device_option,
    build_parser,
    positive_integer,
    report_errors,
)

if TYPE_CHECKING:
    from fairseq.hub_utils import GeneratorHubInterface

# Lines of more bytes per allowed token are not tokenised: splitting a word of 1 MB into subwords
# takes an hour.
BYTES_PER_TOKEN = 64


class Untranslatable(Exception):
    """A line that cannot be translated; the message continues a sentence after "line 3"."""


def load_model(args: argparse.Namespace) -> GeneratorHubInterface:
    """Load the model or ensemble that the command line names, ready to translate.

    Raises:
        BadInput: if fairseq cannot load it.
    """
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
    except Exception as error:  # fairseq raises many kinds, even Exception itself
        raise BadInput(f"cannot load {args.path}: {' '.join(str(error).split())}") from error
    hub.cfg.dataset.max_tokens, hub.cfg.dataset.batch_size = args.max_tokens, None
    hub.cfg.generation.beam, hub.cfg.generation.lenpen = args.beam, args.lenpen
    # A translation may have 200 tokens more than its source. fairseq's default of 200 in all would
    # truncate translations of long lines.
    hub.cfg.generation.max_len_a, hub.cfg.generation.max_len_b = 1, 200
    return hub


def read_bounded_lines(files: Iterable[BinaryIO], limit: int) -> Iterator[bytes]:
    """Read lines with their line feeds; of a longer line, yield the first ``limit`` bytes only."""
    for file in files:
        while line := file.readline(limit):
            rest = line
            while len(rest) == limit and not rest.endswith(b"\n"):
                rest = file.readline(limit)
            yield line


def encode_line(
    hub: GeneratorHubInterface, line: bytes, longest: int, normalize: Callable[[str], str] = str
) -> torch.Tensor:
    """Encode a line as an int64 tensor of tokens, shape ``(T,)``, end of sentence included.

    Raises:
        Untranslatable: if the line is empty, has more than ``longest`` tokens, or is not UTF-8.
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
    """Translate files; yield the translations of ``buffer_size`` lines at a time, in order.

    The lines in the buffer are batched by length.

    Args:
        hub: from `load_model`.
        files: open for reading bytes.
        buffer_size: number of lines in memory.
        progress: bar that counts lines; messages are printed through it.
        normalize: applied to each line before it is tokenised.
    """
    from fairseq import utils

    from revcol_nlp.fairseq_patches.generation import longest_source

    longest = int(longest_source(hub.max_positions, hub.cfg.dataset.max_tokens))
    lines = enumerate(read_bounded_lines(files, BYTES_PER_TOKEN * longest), start=1)
    generator = hub.task.build_generator(hub.models, hub.cfg.generation)
    while True:
        translations, tokens = {}, {}
        for number, line in islice(lines, buffer_size):
            translations[number] = ""
            try:
                tokens[number] = encode_line(hub, line, longest, normalize)
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


def build_normalizer(args: argparse.Namespace, hub: GeneratorHubInterface) -> Callable[[str], str]:
    """Build the function that --normalize applies to each line."""
    if not args.normalize:
        return str
    from sacremoses import MosesPunctNormalizer

    moses = MosesPunctNormalizer(hub.task.cfg.source_lang, perl_parity=True)
    # The Perl script that prepared the data sees the line feed, and one of its rules looks for it.
    return lambda line: moses.normalize(line.removesuffix("\n") + "\n")


def count_lines(paths: list[Path]) -> int | None:
    """Count all lines; return None for pipes, which can be read only once."""
    if not paths or not all(path.is_file() for path in paths):
        return None
    total = 0
    for path in paths:
        with path.open("rb") as file:
            total += sum(1 for _ in read_bounded_lines([file], 1 << 20))
    return total


def open_files(paths: list[Path]) -> Iterator[BinaryIO]:
    """Open one file after the other, or standard input if ``paths`` is empty."""
    if not paths:
        yield sys.stdin.buffer
    for path in paths:
        with path.open("rb") as file:
            yield file


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser(__spec__.name, __doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="text to translate")
    parser.add_argument(
        "--path", required=True, help="checkpoint, or several joined by : for an ensemble"
    )
    parser.add_argument(
        "--data", type=Path, help="folder of the dictionaries (default: folder of the checkpoint)"
    )
    parser.add_argument(
        "--beam", type=positive_integer, default=4, help="beam size (default: %(default)s)"
    )
    parser.add_argument(
        "--lenpen", type=float, default=0.6, help="length penalty (default: %(default)s)"
    )
    parser.add_argument(
        "--normalize", action="store_true", help="normalise punctuation as Moses does"
    )
    parser.add_argument(
        "--tokenizer",
        choices=["moses"],
        help="tokenise the text, and detokenise the translations (default: text is tokenised)",
    )
    parser.add_argument(
        "--no-dash-splits",
        action="store_true",
        help="do not split hyphenated words; for models whose training text was tokenised so",
    )
    parser.add_argument(
        "--bpe-codes",
        type=Path,
        metavar="FILE",
        help="split words into subwords with these codes (default: text is split already)",
    )
    parser.add_argument(
        "--max-tokens",
        type=positive_integer,
        default=4096,
        help="maximal number of source tokens in a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--buffer-size",
        type=positive_integer,
        default=2000,
        help="number of lines that are read before they are translated (default: %(default)s)",
    )
    add_device_option(parser)
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Check what the parser cannot.

    Raises:
        BadInput: if a file or device does not exist, or an option is invalid or has no effect.
    """
    for path in args.files:
        if not path.exists() or path.is_dir():
            raise BadInput(f"there is no file {path} to translate")
    if args.bpe_codes and not args.bpe_codes.is_file():
        raise BadInput(f"--bpe-codes: there is no file {args.bpe_codes}")
    if args.no_dash_splits and not args.tokenizer:
        raise BadInput("--no-dash-splits has no effect without --tokenizer")
    if not (math.isfinite(args.lenpen) and args.lenpen >= 0):
        raise BadInput(f"--lenpen needs a finite number, 0 or more, not {args.lenpen}")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {args.device} is not available on this machine") from error


@report_errors(BadInput)
def main() -> None:
    """Run the command."""
    args = parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore", module="torch")  # about how fairseq calls torch
    output = sys.stdout.buffer
    try:
        check_arguments(args)
        with contextlib.redirect_stdout(sys.stderr):  # keep standard output for translations
            hub = load_model(args)
            with tqdm(total=count_lines(args.files), unit=" lines", disable=None) as progress:
                files = open_files(args.files)
                for texts in translate(
                    hub, files, args.buffer_size, progress, build_normalizer(args, hub)
                ):
                    output.write("".join(f"{text}\n" for text in texts).encode("utf-8"))
                    output.flush()
    except BrokenPipeError:  # the reader of the translations has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
