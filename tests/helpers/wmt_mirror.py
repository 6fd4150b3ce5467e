"""Write small stand-ins for the archives of WMT'14 and WMT'16, with official names and layouts.

Their made-up text has good sentence pairs, and all kinds of pairs that cleaning must drop.
"""

import gzip
import hashlib
import html
import io
import random
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

# Places of the corpora: archive, file in the archive up to the language, other language.
CORPORA = [
    ("training-parallel-europarl-v7.tgz", "training/europarl-v7.de-en", "de"),
    ("training-parallel-europarl-v7.tgz", "training/europarl-v7.fr-en", "fr"),
    ("training-parallel-commoncrawl.tgz", "commoncrawl.de-en", "de"),
    ("training-parallel-commoncrawl.tgz", "commoncrawl.fr-en", "fr"),
    ("training-parallel-nc-v11.tgz", "training-parallel-nc-v11/news-commentary-v11.de-en", "de"),
    ("training-parallel-un.tgz", "un/undoc.2000.fr-en", "fr"),
    ("training-parallel-nc-v9.tgz", "training/news-commentary-v9.fr-en", "fr"),
    ("training-giga-fren.tar", "giga-fren.release2.fixed", "fr"),
]
TEST_ARCHIVES = {"newstest2013": "dev.tgz", "newstest2014": "test-full.tgz"}


def write_sgm(side: str, language: str, sentences: Sequence[str]) -> bytes:
    """Write a test set in WMT's format, in two documents: even and odd ``sentences``."""
    blocks = []
    for document in range(2):
        segments = "".join(
            f'<seg id="{place}">{html.escape(sentence, quote=False)}</seg>\n'
            for place, sentence in enumerate(sentences[document::2], 1)
        )
        blocks.append(f'<doc sysid="{side}" docid="paper/{document}">\n<p>\n{segments}</p>\n</doc>')
    return f'<{side}set setid="x" srclang="any">\n{chr(10).join(blocks)}\n</{side}set>\n'.encode()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write a tar archive of these files, compressed if it is named .tgz."""
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_table(mirror: Path) -> Path:
    """Write a table of the archives in a mirror like scripts/wmt/archives.txt.

    Size and checksum of dev.tgz are unknown in it.
    """
    rows = []
    for path in sorted(mirror.iterdir()):
        known = f"{path.stat().st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        rows.append(f"{path.name} {'- -' if path.name == 'dev.tgz' else known} http://nowhere\n")
    table = mirror.parent / "archives.txt"
    table.write_text("".join(rows))
    return table


def write_mirror(
    mirror: Path,
    corpora: Iterable[tuple[str, str, str, bytes, bytes]],
    test_sets: Iterable[tuple[str, str, Sequence[str], Sequence[str]]],
) -> None:
    """Make the folder ``mirror`` with the archives, and their table archives.txt beside it.

    Args:
        corpora: for each corpus, the row of `CORPORA`, the English text and the other text.
        test_sets: for each test set, the key of `TEST_ARCHIVES`, the other language, and the
            English and the other sentences.
    """
    mirror.mkdir()
    archives: dict[str, dict[str, bytes]] = {}
    for archive, name, language, *sides in corpora:
        files = archives.setdefault(archive, {"README": b"WMT"})
        for lang, side in zip(("en", language), sides, strict=True):
            if archive.endswith("tar"):
                files[f"{name}.{lang}.gz"] = gzip.compress(side)
            else:
                files[f"{name}.{lang}"] = side
    for name, language, english, other in test_sets:
        archive = TEST_ARCHIVES[name]
        stem = f"{archive[:-4]}/{name}" + (f"-{language}en" if name == "newstest2014" else "")
        files = archives.setdefault(archive, {})
        files[f"{stem}-src.en.sgm"] = write_sgm("src", "en", english)
        files[f"{stem}-ref.{language}.sgm"] = write_sgm("ref", language, other)
    for archive, files in archives.items():
        write_tar(mirror / archive, files)
    write_table(mirror)


# Made-up text ------------------------------------------------------------------------------------

GOOD = (60, 40, 2300, 50, 70, 80, 30, 1100)  # good pairs in each corpus
# Pairs that cleaning must drop, and the reason; none of them may shift the pairs that follow.
BROKEN = [
    (b"", b"nichts", "empty"),
    (b"nothing", b" \t ", "empty"),
    ("\u2028\x0c\u00a0".encode(), b"leer", "empty"),
    ("caf\u00e9".encode("latin-1"), b"kaffee", "misencoded"),
    (b"surrogate", b"\xed\xa0\x80", "misencoded"),
    ("caf\ufffd".encode(), b"kaffee", "misencoded"),
    (b"word " * 300, b"wort " * 299, "too long"),
    (b"x" * 1001, b"y", "too long"),
    (b"one two three four", b"eins zwei", "ratio"),
    (b"one", b"eins , zwei", "ratio"),
]
# Characters in good pairs that some readers take for the end of a line, or drop.
STRANGE = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r", "\x00", "\u00ad"]
TEST_SETS = {"newstest2013": 13, "newstest2014": 17}


def make_raw(sentences: int) -> list[str]:
    """Make sentences with quotation marks, entities, tags and hyphens."""
    return [f'The "{n}" & (it\u2019s) <{n}>: half-done.' for n in range(sentences)]


def make_sentence(words: list[str], chance: random.Random, mark: str) -> str:
    """Make a random sentence that contains ``mark``."""
    return " ".join([*chance.choices(words, k=chance.randint(3, 9)), mark, "."])


def make_text(corpus: str, good: int) -> tuple[bytes, bytes]:
    """Make both sides of a corpus; each good pair has a mark of its own on both sides."""
    chance = random.Random(corpus)
    words = ["".join(chance.choices("abdeiklmnorstu", k=chance.randint(2, 7))) for _ in range(90)]
    pairs = [(source + b"\n", target + b"\n") for source, target, _ in BROKEN]
    for number in range(good):
        mark = f"{corpus[:2]}{number}"
        chosen = make_sentence(words, chance, mark)
        odd = STRANGE[number] if number < len(STRANGE) else " "
        other = " ".join(reversed(chosen.split(" ")))
        pairs.append((chosen.replace(" ", odd, 1).encode() + b"\n", f"{other}\r\n".encode()))
    chance.shuffle(pairs)
    source, target = (b"".join(side) for side in zip(*pairs, strict=True))
    return source, target.removesuffix(b"\n")


def write_made_up_mirror(folder: Path) -> None:
    """Write a mirror with made-up text for both language pairs."""
    write_mirror(
        folder,
        [(*c, *make_text(Path(c[1]).name, good)) for c, good in zip(CORPORA, GOOD, strict=True)],
        [
            (s, lang, make_raw(n), make_raw(n))
            for s, n in TEST_SETS.items()
            for lang in ("de", "fr")
        ],
    )


# The scripts that prepare the data of either language pair.
EN_DE, EN_FR = "wmt/prepare_en_de.sh", "wmt/prepare_en_fr.sh"


def build_tiny_options(mirror: Path, out: Path, *more: object) -> tuple[object, ...]:
    """Build options of `EN_DE` and `EN_FR` for tiny archives."""
    where = ("--mirror", mirror, "--archives", mirror.parent / "archives.txt", "--out", out)
    return (*where, "--workers", 2, "--merges", 150, *more)
