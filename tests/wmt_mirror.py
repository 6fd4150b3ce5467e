"""Small stand-ins for the archives of WMT'14 and WMT'16, with the official names and layouts."""

import gzip
import hashlib
import html
import io
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
    """What the archives of a mirror are, as scripts/wmt_archives.txt says it; dev.tgz unknown."""
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
