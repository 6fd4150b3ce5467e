"""Sources of images, their order, and images that cannot be read."""

import json
import random
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import (
    NAME_TO_OP,
    AugmentOp,
    RandAugment,
    rand_augment_transform,
)
from timm.data.auto_augment import posterize as timm_posterize

from tests.helpers.images import (
    CLASSES,
    TINY,
    assert_same_run,
    build,
    make_images,
    pack,
    rows,
    sentence,
    train,
)
from vision.training.checkpoints import read_checkpoint
from vision.training.data import BatchSizes, Images, MicrobatchSampler, allow_zero_bits, use_seed
from vision.training.distributed import Process
from vision.training.sources import Source, open_source

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def copy(data, tmp_path):
    """A folder of images to spoil."""
    return shutil.copytree(data, tmp_path / "copy")


def contents(source: Source) -> list[tuple[bytes, int]]:
    return [
        (image.tobytes(), target) for image, target in map(source.__getitem__, range(len(source)))
    ]


@pytest.mark.parametrize("top", ["", "pets/"])
def test_zip_and_tar_hold_what_the_folder_holds(top, data, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copytree(data, tmp_path / "in" / top, dirs_exist_ok=True)
    archive = pack(tmp_path / "in", tmp_path / "pets.zip")
    with tarfile.open(tmp_path / "pets.tar", "w") as file:
        for path in sorted((tmp_path / "in").iterdir()):
            file.add(path, path.name)
    for split in ("train", "validation"):
        folder = open_source(str(data), split)
        assert len(folder) == (42 if split == "train" else 15) and folder.classes == [*CLASSES]
        for packed in (archive, tmp_path / "pets.tar"):
            source = open_source(str(packed), split)
            assert source.classes == folder.classes
            assert contents(source) == contents(folder)


def test_a_class_may_have_the_name_of_a_split(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "copy")
    for split in ("train", "val"):
        (folder / split / "cat").rename(folder / split / "train")
    for path in (folder, pack(folder, tmp_path / "copy.zip")):
        assert len(open_source(str(path), "train")) == 42
        assert len(open_source(str(path), "validation")) == 15


def test_a_zip_can_be_read_by_several_processes_after_this_one_has(data, tmp_path):
    source = open_source(str(pack(data, tmp_path / "images.zip")), "train")
    assert source[0]
    expected = contents(source)
    images = Images(source, lambda image: torch.tensor(np.array(image)), replace=False)
    draws = [(index, 0) for index in range(len(source))]
    loader = torch.utils.data.DataLoader(images, batch_size=None, sampler=draws, num_workers=2)
    assert [(image.numpy().tobytes(), target) for image, target, _ in loader] == expected


def test_training_from_a_zip_by_workers_is_training_from_the_folder(data, tmp_path):
    archive = pack(data, tmp_path / "images.zip")
    augmented = ("--aa", "rand-m9-mstd0.5-inc1", "--reprob", 0.5, "--epochs", 2)
    train(data, *TINY, *augmented, "--output", tmp_path / "folder")
    train(archive, *TINY, *augmented, "--output", tmp_path / "zip", "--workers", 2)
    assert_same_run(tmp_path / "zip", tmp_path / "folder")


def test_torchvision_data_sets_are_opened_by_name(tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        pixels = np.arange(784 * 20, dtype=np.uint8).tobytes()
        header = (2051).to_bytes(4) + (20).to_bytes(4) + (28).to_bytes(4) * 2
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + pixels)
        labels = (2049).to_bytes(4) + (20).to_bytes(4) + bytes(range(10)) * 2
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(labels)
    train(tmp_path, "--dataset", "torch/mnist", *TINY, "--epochs", 1, "--output", tmp_path / "out")
    assert len(read_checkpoint(tmp_path / "out/last.pth.tar")["data"]["classes"]) == 10


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_an_update_has_the_same_images_however_many_processes_there_are(processes):
    def updates(world: int, micro: int) -> list[list[tuple[int, int]]]:
        sizes = BatchSizes(16, micro, 16 // (world * micro))
        samplers = [
            MicrobatchSampler(50, sizes, Process(CPU, rank, world), seed=3) for rank in range(world)
        ]
        per_rank = [list(sampler) for sampler in samplers]
        assert all(
            len(batches) == len(sampler)
            for batches, sampler in zip(per_rank, samplers, strict=True)
        )
        return [
            [
                draw
                for step in range(update * sizes.accumulation, (update + 1) * sizes.accumulation)
                for batches in per_rank
                for draw in batches[step]
            ]
            for update in range(50 // 16)
        ]

    joint = updates(1, 16)
    assert updates(processes, 4) == joint
    drawn = [index for update in joint for index, _ in update]
    assert len(set(drawn)) == 48, "no image twice, and what is left over is left out"


def test_epochs_differ_and_one_begun_in_the_middle_is_the_rest_of_it():
    sampler = MicrobatchSampler(50, BatchSizes(8, 4, 2), Process(CPU, 0, 1), seed=3)
    first = list(sampler)
    sampler.start_at(1, 0)
    assert list(sampler) != first
    sampler.start_at(0, 2)
    assert list(sampler) == first[4:]


def test_drawing_an_image_leaves_the_generators_as_they_were():
    def state():
        return random.random(), np.random.rand(), torch.rand(()).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = state()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with use_seed(5):
        inside = state()
    assert state() == expected
    with use_seed(5):
        assert state() == inside


def posterize_with_zero_bits() -> RandAugment:
    """A RandAugment of timm that only posterizes, always, and asks for 0 bits."""
    augment = rand_augment_transform("rand-m10-n1-inc1", {})
    augment.ops = [op for op in augment.ops if "Posterize" in op.name]
    augment.ops[0].prob = 1.0
    augment.choice_weights = None
    return augment


def test_randaugment_may_keep_no_bits():
    image = Image.new("RGB", (8, 8), "white")
    augment = allow_zero_bits(posterize_with_zero_bits())
    assert augment(image).getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("policy", ["original", "rand-m9-inc1", "augmix-m3", "3a"])
def test_every_posterize_in_a_policy_of_timm_may_keep_no_bits(policy, data, tmp_path):
    transform = build(data, *TINY, "--aa", policy, "--output", tmp_path).loader.dataset.transform
    operations = list(find_operations(transform.transforms))
    posterizing = [operation for operation in operations if "Posterize" in operation.name]
    assert operations and (posterizing or policy == "3a")
    image = Image.new("RGB", (8, 8), "white")
    for operation in posterizing:
        assert operation.aug_fn(image, 0).getextrema() == ((0, 0),) * 3


def find_operations(content):
    for entry in content:
        if isinstance(entry, AugmentOp):
            yield entry
        elif isinstance(entry, list):
            yield from find_operations(entry)
        else:
            yield from find_operations(getattr(entry, "ops", getattr(entry, "policy", [])))


def test_timms_own_augmentation_stays_as_it_is():
    """Other code in the process keeps timm's table of operations, whatever it does with 0 bits."""
    assert {NAME_TO_OP[name] for name in NAME_TO_OP if "Posterize" in name} == {timm_posterize}
    image = Image.new("RGB", (8, 8), "white")
    operation = posterize_with_zero_bits().ops[0]
    assert operation.aug_fn is timm_posterize and operation.aug_fn(image, 8) is image


def spoil(folder) -> list[str]:
    """Makes five files unreadable, each in its own way."""
    (folder / "bird/0.png").write_bytes(b"")
    (folder / "bird/1.jpg").write_text("no image")
    jpeg = (folder / "cat/1.jpg").read_bytes()
    (folder / "cat/1.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    png = (folder / "dog/0.png").read_bytes()
    (folder / "dog/0.png").write_bytes(png[: png.index(b"IDAT") + 100] + b"\0" * 64 + png[-20:])
    (folder / "dog/2.png").write_bytes(png.replace(b"IDAT", b"I\0AT"))
    return ["bird/0.png", "bird/1.jpg", "cat/1.jpg", "dog/0.png", "dog/2.png"]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_replaced_counted_and_named(copy, tmp_path, caplog, workers):
    names = spoil(copy / "train")
    spoil(copy / "val")
    out = tmp_path / "out"
    command = (copy, *TINY, "--batch-size", 42, "--epochs", 2, "--output", out)
    train(*command, "--workers", workers)
    for row in rows(out):
        assert row["unreadable"] == row["eval_unreadable"] == 5 and row["eval_images"] == 10
    report = json.loads((out / "report.json").read_text())
    assert report["unreadable_images"] == report["unreadable_validation_images"] == 5
    for name in names:
        assert f"unreadable image: {name} (" in caplog.text


def test_training_on_replacements_is_training_on_their_copies(copy, tmp_path):
    """The next image, with the draws of the one that it stands for."""
    (copy / "train/cat/3.jpg").write_text("no image")
    train(copy, *TINY, "--epochs", 1, "--output", tmp_path / "replaced")
    (copy / "train/cat/3.jpg").write_bytes((copy / "train/cat/4.png").read_bytes())
    train(copy, *TINY, "--epochs", 1, "--output", tmp_path / "copied")
    weights = [
        read_checkpoint(tmp_path / f"{name}/last.pth.tar")["state_dict"]
        for name in ("replaced", "copied")
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_in_a_row_end_the_run(copy, tmp_path, capsys, workers):
    for index in range(11):
        next((copy / "train/cat").glob(f"{index}.*")).write_bytes(b"")
    command = (copy, *TINY, "--batch-size", 42, "--output", tmp_path / "out", "--workers", workers)
    error = sentence(capsys, "train", *command)
    assert "more than 10 images in a row cannot be read, among them cat/" in error


def test_validation_without_a_readable_image_is_refused(copy, tmp_path, capsys):
    for path in (copy / "val").rglob("*.*"):
        path.write_bytes(b"")
    error = sentence(capsys, "train", copy, *TINY, "--output", tmp_path / "out")
    assert "none of the validation images can be read" in error


def test_a_subset_is_drawn_once(data, tmp_path):
    train(data, *TINY, "--subset", 20, "--batch-size", 10, "--output", tmp_path)
    assert read_checkpoint(tmp_path / "last.pth.tar")["data"]["images"] == 20
    assert rows(tmp_path)[0]["epoch"] == 1


def empty(folder):
    (folder / "train/cow").mkdir()
    return "train/cow"


def unmatched(folder):
    (folder / "val/cat").rename(folder / "val/cow")
    return f"only in {folder} (train): cat; only in {folder} (validation): cow"


def no_images(folder):
    for path in (folder / "train").rglob("*.*"):
        path.unlink()
    return "Found 0 images"


def no_split(folder):
    (folder / "val").rename(folder / "other")
    return "has no folder for the split 'validation'"


@pytest.mark.parametrize("spoil", [empty, unmatched, no_images, no_split])
def test_folders_that_will_not_do_are_refused_in_a_sentence(spoil, copy, tmp_path, capsys):
    expected = spoil(copy)
    assert expected in sentence(capsys, "train", copy, *TINY, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_archives_that_will_not_do_are_refused_in_a_sentence(copy, tmp_path, capsys):
    options = (*TINY, "--output", tmp_path / "out")
    empty(copy)
    archive = pack(copy, tmp_path / "copy.zip")
    assert "a class folder without images: train/cow" in sentence(
        capsys, "train", archive, *options
    )
    archive.write_bytes(archive.read_bytes()[:-100])
    assert "cannot be read as a .zip" in sentence(capsys, "train", archive, *options)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "nothing")
    assert "no folder for the split 'train'" in sentence(capsys, "train", archive, *options)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("train/readme.txt", "nothing")
    assert "holds no images" in sentence(capsys, "train", archive, *options)
    (tmp_path / "no.tar").write_text("no archive")
    assert "cannot be opened" in sentence(capsys, "train", tmp_path / "no.tar", *options)
    assert "there is no" in sentence(capsys, "train", tmp_path / "nowhere", *options)


def test_other_data_sets_that_will_not_do_are_refused_in_a_sentence(tmp_path, capsys):
    options = (tmp_path, *TINY, "--output", tmp_path / "out", "--dataset")
    assert "is a stream of images" in sentence(capsys, "train", *options, "wds/anything")
    assert "cannot be opened: Dataset not found" in sentence(
        capsys, "train", *options, "torch/cifar10"
    )
    assert "Unknown torchvision" in sentence(capsys, "train", *options, "torch/nothing")


def test_sizes_that_do_not_fit_the_data_are_refused_in_a_sentence(data, tmp_path, capsys):
    options = (data, *TINY, "--output", tmp_path)
    assert "more than the 42 images" in sentence(capsys, "train", *options, "--batch-size", 43)
    assert "more than the 42 images" in sentence(capsys, "train", *options, "--subset", 43)
    assert "not a multiple of 1 processes times --micro-batch-size 3" in sentence(
        capsys, "train", *options, "--micro-batch-size", 3
    )
    error = sentence(capsys, "train", *options, "--num-classes", 2)
    assert "--num-classes 2 is less than the data's 3" in error
    error = sentence(capsys, "train", *options, "--micro-batch-size", 1, "--mixup", 1)
    assert "mixing needs an even --micro-batch-size, not 1" in error
