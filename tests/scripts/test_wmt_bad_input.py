"""scripts/wmt/prepare_en_*.sh: bad archives, text and options are refused in one sentence."""

import fcntl
import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.wmt import cleaning
from tests.helpers.scripts import SCRIPTS, assert_refused, run_script
from tests.helpers.wmt_mirror import (
    EN_DE,
    EN_FR,
    build_tiny_options,
    make_raw,
    write_sgm,
    write_table,
    write_tar,
)


def write_no_archive(folder: Path) -> None:
    (folder / "dev.tgz").write_bytes(b"<html>Not Found</html>")


def truncate_archive(folder: Path) -> None:
    path = folder / "dev.tgz"
    path.write_bytes(path.read_bytes()[:-200])


def write_another_archive(folder: Path) -> None:
    write_tar(folder / "dev.tgz", {"dev/newstest2012-src.en.sgm": b""})


def write_unequal_test_set(folder: Path) -> None:
    sides = {
        "src.en": write_sgm("src", "en", make_raw(13)),
        "ref.de": write_sgm("ref", "de", make_raw(12)),
    }
    write_tar(folder / "dev.tgz", {f"newstest2013-{k}.sgm": data for k, data in sides.items()})


def write_unequal_sides(folder: Path) -> None:
    name = "training/europarl-v7.de-en"
    data = {f"{name}.en": b"one\n" * 1001, f"{name}.de": b"eins\n" * 1002}
    write_tar(folder / "training-parallel-europarl-v7.tgz", data)


def write_bad_pairs_only(folder: Path) -> None:
    name = "training/europarl-v7.de-en"
    data = {f"{name}.en": b"\n\n", f"{name}.de": b"eins\nzwei\n"}
    write_tar(folder / "training-parallel-europarl-v7.tgz", data)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (write_no_archive, ("dev.tgz is truncated or damaged", "remove it")),
        (truncate_archive, ("dev.tgz is truncated or damaged", "remove it")),
        (write_another_archive, ("dev.tgz has no file newstest2013-src.en.sgm",)),
        (
            write_unequal_test_set,
            ("13 sentences in newstest2013-src.en.sgm", "12 in newstest2013-ref.de"),
        ),
    ],
)
def test_a_bad_test_archive_is_refused(
    damage: Callable[[Path], None], words: tuple[str, ...], mirror: Path, tmp_path: Path
) -> None:
    (tmp_path / "dev.tgz").write_bytes((mirror / "dev.tgz").read_bytes())
    damage(tmp_path)
    archive = ("--archive", tmp_path / "dev.tgz", "--name", "newstest2013", "--split", "valid")
    done = run_script(
        "wmt/text.py", "test-set", *archive, "--languages", "en", "de", "--out", tmp_path
    )
    assert_refused(done, *words)


@pytest.mark.parametrize("damaged", [slice(None, -9), slice(9, None)])
def test_a_damaged_file_in_a_complete_archive_is_refused(damaged: slice, tmp_path: Path) -> None:
    whole = gzip.compress(b"a line\n" * 100_000)
    write_tar(tmp_path / "giga.tar", {"giga.en.gz": whole[damaged]})
    with (
        pytest.raises(cleaning.BadInput, match=r"giga.tar is truncated or damaged"),
        cleaning.open_member(tmp_path / "giga.tar", "giga.en") as file,
    ):
        file.read()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (write_unequal_sides, ("one side of europarl-v7.de-en ends after 1001 lines",)),
        (write_bad_pairs_only, ("drops all of the 2 sentence pairs of europarl-v7.de-en",)),
    ],
)
def test_a_bad_corpus_is_refused(
    damage: Callable[[Path], None], words: tuple[str, ...], mirror: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    for path in mirror.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "training-parallel-europarl-v7.tgz").unlink()
    damage(folder)
    write_table(folder)
    done = run_script(EN_DE, *build_tiny_options(folder, tmp_path / "out"))
    assert_refused(done, *words, progress=True)
    assert not (tmp_path / "out/clean-europarl-v7.de-en").exists()


@pytest.mark.parametrize("script", [EN_DE, EN_FR])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mirror", "/nowhere"), ("--mirror", "/nowhere")),
        (("--mirror", "file:///nowhere"), ("--mirror", "/nowhere")),
        (("--archives", "/nowhere"), ("--archives", "/nowhere")),
        (("--workers", "0"), ("--workers", "'0'")),
        (("--merges", "many"), ("--merges", "many")),
        (("--ratio", "-1"), ("--ratio", "-1")),
        (("--max-length",), ("--max-length", "value")),
        (("--mirrors", "x"), ("--mirrors",)),
    ],
)
def test_bad_options_get_one_sentence(
    script: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = run_script(script, *options)
    assert_refused(done, *words)
    assert done.stderr.count("\n") == 1


def test_two_runs_in_one_folder_are_refused(mirror: Path, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert_refused(
        run_script(EN_DE, *build_tiny_options(mirror, tmp_path)), "another run", str(tmp_path)
    )
    os.close(folder)


@pytest.mark.parametrize("script", [EN_DE, EN_FR])
def test_help_names_every_option(script: str) -> None:
    done = run_script(script, "--help")
    assert done.returncode == 0
    source = (SCRIPTS / "wmt/prepare.sh").read_text()
    options = re.findall(r"^ +(--[a-z-]+)(?: \| -h)?\)", source, re.MULTILINE)
    assert len(options) == 8
    assert all(f"\n  {option} " in done.stdout for option in options)
    assert script in done.stdout
    assert "source" not in done.stdout
