"""Sources of images: class folders, archives, and data sets that timm opens by name."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from PIL import Image
from timm.data import ImageDataset, create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader import Reader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils.misc import natural_key
from torch.utils.data import Dataset

from vision.training.command import UserError, describe_error
from vision.training.data_configs import DataConfig
from vision.training.distributed import Process, wait_for_all

# Prefixes of data sets in timm that give images in a row, without an index.
STREAMS = {"hfids", "tfds", "wds"}
# Names of splits that mean the same.
SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"))


class ReaderZip(Reader):
    """Reads ``split/.../CLASS/image`` of a .zip file for timm; `open_zip` makes it.

    Args:
        root: path of the file.
        samples: name in the archive and index of the class, for each image.
        class_to_idx: index of each class.
        folders: names of the folders of the split.
    """

    def __init__(
        self,
        root: str,
        samples: list[tuple[str, int]],
        class_to_idx: dict[str, int],
        folders: list[str],
    ):
        super().__init__()
        self.root, self.samples = root, samples
        self.class_to_idx, self.folders = class_to_idx, folders
        self._archive, self._process = None, None

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        # An open archive has one position in its file, so processes must not share it.
        if self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.root), os.getpid()
        name, target = self.samples[index]
        return io.BytesIO(self._archive.read(name)), target

    def __len__(self) -> int:
        return len(self.samples)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        name = self.samples[index][0]
        return Path(name).name if basename else name


def open_zip(root: str, split: str) -> ReaderZip:
    """Lists the images of a split of a .zip file.

    Raises:
        UserError: if the file is not a .zip file, or has no folder for the split.
    """
    try:
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{root} cannot be read as a .zip: {error}") from None
    folder = find_split_folder(names, split, root)
    inside = [name for name in names if name.startswith(folder)]
    images = [name for name in inside if Path(name).suffix.lower() in get_img_extensions()]
    labels = sorted({Path(name).parent.name for name in images}, key=natural_key)
    class_to_idx = {label: index for index, label in enumerate(labels)}
    samples = [
        (name, class_to_idx[Path(name).parent.name]) for name in sorted(images, key=natural_key)
    ]
    return ReaderZip(root, samples, class_to_idx, [name for name in inside if name.endswith("/")])


def find_split_folder(names: Iterable[str], split: str, archive: str) -> str:
    """Returns the folder in an archive that holds the split, up to its last slash.

    The folder may have another name of the same meaning. It is at the top of the archive, or inside
    the only folder there.

    Raises:
        UserError: if there is none.
    """
    names = [name for name in names if not name.startswith("__MACOSX/")]
    synonyms = next((group for group in SYNONYMS if split in group), ())
    tops = {name.partition("/")[0] for name in names}
    for top in ("", *(f"{name}/" for name in tops if len(tops) == 1)):
        for folder in (f"{top}{name}/" for name in (split, *synonyms)):
            if any(name.startswith(folder) for name in names):
                return folder
    raise UserError(f"{archive} has no folder for the split {split!r}")


class Source:
    """One split of a data set: RGB images and targets by index. `open_source` makes it.

    Args:
        dataset: as timm opens it.
        title: names the split in messages.
        classes: names of the classes, in the order of their targets.
    """

    def __init__(self, dataset: Dataset, title: str, classes: list[str]):
        self.dataset, self.title, self.classes = dataset, title, classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if isinstance(self.dataset, ImageDataset):
            # ImageDataset itself replaces an unreadable image without a message.
            file, target = self.dataset.reader[index]
            with file:
                return Image.open(file).convert("RGB"), int(target)
        image, target = self.dataset[index]
        return image.convert("RGB"), int(target)

    def describe_image(self, index: int) -> str:
        """Returns the file name of an image, or its number in the data set."""
        try:
            return self.dataset.filename(index)
        except (AttributeError, OSError):
            return f"number {index}"


def open_source(data: str, split: str, dataset: str = "", download: bool = False) -> Source:
    """Opens one split of a data set.

    Args:
        data: folder, .zip file or .tar file; or the folder with the files of ``dataset``.
        split: train or validation, or another split of the data set.
        dataset: name of the data set in timm; empty for class folders.
        download: let torchvision download the data set.

    Raises:
        UserError: if the data set cannot be opened, has no images, or has a class without images.
    """
    title = f"{data} ({split})"
    if dataset.partition("/")[0].lower() in STREAMS:
        raise UserError(
            f"{dataset} is a stream of images, which cannot be resumed exactly where a run was "
            "interrupted: use a data set whose images have an index"
        )
    try:
        opened = _open_dataset(data, split, dataset, download)
    except UserError:
        raise
    # timm, torchvision and the archives raise errors of many kinds.
    except Exception as error:
        raise UserError(f"{title} cannot be opened: {describe_error(error)}") from None
    if not len(opened):
        raise UserError(f"{title} holds no images")
    empty = _list_empty_folders(opened)
    if empty:
        raise UserError(f"{title} has a class folder without images: {empty[0]}")
    return Source(opened, title, _list_classes(opened, title))


def _open_dataset(data: str, split: str, name: str, download: bool) -> Dataset:
    path = Path(data)
    if name:
        return create_dataset(name, root=data, split=split, download=download)
    if not path.exists():
        raise UserError(f"there is no {data}")
    if path.suffix == ".zip":
        return ImageDataset(data, reader=open_zip(data, split))
    dataset = create_dataset("", root=data, split=split)
    reader = dataset.reader
    if path.is_dir() and Path(reader.root) == path:
        # timm takes the folder itself where there is none for the split.
        raise UserError(f"{data} has no folder for the split {split!r}")
    if path.is_file():
        names = [sample[0].path for sample in reader.samples]
        folder = find_split_folder(names, split, data)
        inside = [name.startswith(folder) for name in names]
        reader.samples, reader.targets = reader.samples[inside], reader.targets[inside]
    return dataset


def _list_classes(dataset: Dataset, title: str) -> list[str]:
    reader = getattr(dataset, "reader", dataset)
    for attribute in ("class_to_idx", "class_name_to_idx"):
        indices = getattr(reader, attribute, None)
        if indices:
            return sorted(indices, key=indices.get)
    raise UserError(f"{title} does not name its classes, so it cannot be used")


def _list_empty_folders(dataset: Dataset) -> list[str]:
    reader = getattr(dataset, "reader", None)
    if isinstance(reader, ReaderZip):
        folders = [Path(name) for name in reader.folders]
    elif isinstance(reader, ReaderImageFolder):
        folders = [Path(entry.path) for entry in os.scandir(reader.root) if entry.is_dir()]
    else:
        return []
    full = set(chain.from_iterable(Path(name).parents for name, _ in reader.samples))
    return sorted(str(folder) for folder in folders if folder not in full)


def open_sources(config: DataConfig, train_split: str, process: Process) -> tuple[Source, Source]:
    """Opens the training and the validation images; only the primary process downloads.

    Raises:
        UserError: if a split cannot be opened, or their classes differ.
    """
    if config.dataset_download and not process.primary:
        wait_for_all(process)  # until the primary process has downloaded the data set
    train, val = (
        open_source(config.data, split, config.dataset, config.dataset_download)
        for split in (train_split, config.val_split)
    )
    if config.dataset_download and process.primary:
        wait_for_all(process)
    check_classes(train.classes, val.classes, train.title, val.title)
    return train, val


def check_classes(first: list[str], second: list[str], first_title: str, second_title: str) -> None:
    """Refuses two lists of classes that differ.

    Raises:
        UserError: naming examples.
    """
    if first == second:
        return
    differences = [
        f"only {place}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for place, names in (
            (f"in {first_title}", sorted(set(first) - set(second))),
            (f"in {second_title}", sorted(set(second) - set(first))),
        )
        if names
    ]
    raise UserError(
        f"the classes of {first_title} and {second_title} differ "
        f"({'; '.join(differences) or 'in their order'})"
    )
