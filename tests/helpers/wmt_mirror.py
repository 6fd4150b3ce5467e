"""Small stand-ins for the archives of WMT'14 and WMT'16, with the official names and layouts, and
made-up text for them: good sentence pairs, and every kind that is to be dropped."""

import gzip
import hashlib
import html
import io
import random
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

# Where the corpora lie: archive, file there up to the language, language.
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


def sgm(side: str, language: str, sentences: Sequence[str]) -> bytes:
    """A test set of two documents, the even and the odd ``sentences``, as WMT writes them."""
    blocks = []
    for document in range(2):
        segments = "".join(
            f'<seg id="{place}">{html.escape(sentence, quote=False)}</seg>\n'
            for place, sentence in enumerate(sentences[document::2], 1)
        )
        blocks.append(f'<doc sysid="{side}" docid="paper/{document}">\n<p>\n{segments}</p>\n</doc>')
    return f'<{side}set setid="x" srclang="any">\n{chr(10).join(blocks)}\n</{side}set>\n'.encode()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_table(mirror: Path) -> Path:
    """What the archives of a mirror are, as scripts/wmt/archives.txt says it; dev.tgz unknown."""
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
    """Make the folder ``mirror`` with the archives in it; archives.txt beside it lists them.

    Args:
        corpora: a row of `CORPORA` and its English and other side, each.
        test_sets: one of `TEST_ARCHIVES`, the other language, English and other sentences, each.
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
        files[f"{stem}-src.en.sgm"] = sgm("src", "en", english)
        files[f"{stem}-ref.{language}.sgm"] = sgm("ref", language, other)
    for archive, files in archives.items():
        write_tar(mirror / archive, files)
    write_table(mirror)


# Made-up text ------------------------------------------------------------------------------------

GOOD = (60, 40, 2300, 50, 70, 80, 30, 1100)  # good pairs in each corpus
# Pairs to be dropped, and why; none of them may shift those that follow.
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
# Good pairs that other readers of lines would break in two, or lose something of.
STRANGE = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r", "\x00", "\u00ad"]
TEST_SETS = {"newstest2013": 13, "newstest2014": 17}


def raw(sentences: int) -> list[str]:
    return [f'The "{n}" & (it\u2019s) <{n}>: half-done.' for n in range(sentences)]


def sentence(words: list[str], chance: random.Random, mark: str) -> str:
    return " ".join([*chance.choices(words, k=chance.randint(3, 9)), mark, "."])


def text(corpus: str, good: int) -> tuple[bytes, bytes]:
    """Both sides of a corpus; a mark that is the same on both sides tells the good pairs apart."""
    chance = random.Random(corpus)
    words = ["".join(chance.choices("abdeiklmnorstu", k=chance.randint(2, 7))) for _ in range(90)]
    pairs = [(source + b"\n", target + b"\n") for source, target, _ in BROKEN]
    for number in range(good):
        mark = f"{corpus[:2]}{number}"
        chosen = sentence(words, chance, mark)
        odd = STRANGE[number] if number < len(STRANGE) else " "
        other = " ".join(reversed(chosen.split(" ")))
        pairs.append((chosen.replace(" ", odd, 1).encode() + b"\n", f"{other}\r\n".encode()))
    chance.shuffle(pairs)
    source, target = (b"".join(side) for side in zip(*pairs, strict=True))
    return source, target.removesuffix(b"\n")


def write_made_up_mirror(folder: Path) -> None:
    """`write_mirror` with made-up text for both language pairs."""
    write_mirror(
        folder,
        [(*c, *text(Path(c[1]).name, good)) for c, good in zip(CORPORA, GOOD, strict=True)],
        [(s, lang, raw(n), raw(n)) for s, n in TEST_SETS.items() for lang in ("de", "fr")],
    )


# The scripts that prepare the data of either language pair.
EN_DE, EN_FR = "wmt/prepare_en_de.sh", "wmt/prepare_en_fr.sh"


def tiny_options(mirror: Path, out: Path, *more: object) -> tuple[object, ...]:
    """Of `EN_DE` and `EN_FR`, for tiny archives."""
    where = ("--mirror", mirror, "--archives", mirror.parent / "archives.txt", "--out", out)
    return (*where, "--workers", 2, "--merges", 150, *more)
