"""Where images come from: folders, archives, and the data sets that timm opens by name."""

from __future__ import annotations

import io
import os
import zipfile
from argparse import Namespace
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from PIL import Image
from timm.data import ImageDataset, create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader import Reader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils.misc import natural_key
from torch import distributed
from torch.utils.data import Dataset

from vision.training.errors import UserError
from vision.training.process import Process

STREAMS = {"hfids", "tfds", "wds"}
SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"))


class ReaderZip(Reader):
    """Reads ``split/.../CLASS/image`` of a .zip for timm.

    Raises:
        UserError: if the file is no .zip, or has no images of that split.
    """

    def __init__(self, root: str, split: str):
        super().__init__()
        self.root = root
        self._archive, self._process = None, None
        try:
            with zipfile.ZipFile(root) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{root} cannot be read as a .zip: {error}") from None
        folder = split_folder(names, split, root)
        inside = [name for name in names if name.startswith(folder)]
        images = [name for name in inside if Path(name).suffix.lower() in get_img_extensions()]
        labels = sorted({Path(name).parent.name for name in images}, key=natural_key)
        self.class_to_idx = {label: index for index, label in enumerate(labels)}
        self.samples = [
            (name, self.class_to_idx[Path(name).parent.name])
            for name in sorted(images, key=natural_key)
        ]
        self.folders = [name for name in inside if name.endswith("/")]

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        # An open archive has one position in its file, which processes must not share.
        if self._process != os.getpid():
            self._archive, self._process = zipfile.ZipFile(self.root), os.getpid()
        name, target = self.samples[index]
        return io.BytesIO(self._archive.read(name)), target

    def __len__(self) -> int:
        return len(self.samples)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        name = self.samples[index][0]
        return Path(name).name if basename else name


def split_folder(names: Iterable[str], split: str, archive: str) -> str:
    """The folder, up to its last slash, that has the split, or one of the same meaning.

    It lies at the top of the archive, or in the one folder there.

    Raises:
        UserError: if there is none.
    """
    names = [name for name in names if not name.startswith("__MACOSX/")]
    meant = next((group for group in SYNONYMS if split in group), ())
    tops = {name.partition("/")[0] for name in names}
    for top in ("", *(f"{name}/" for name in tops if len(tops) == 1)):
        for folder in (f"{top}{name}/" for name in (split, *meant)):
            if any(name.startswith(folder) for name in names):
                return folder
    raise UserError(f"{archive} has no folder for the split {split!r}")


class Source:
    """One split of a data set as timm opens it: RGB images and targets by index.

    Args:
        data: folder, .zip or .tar, or what the data set of that name keeps its files in.
        name: of the data set in timm's terms, or nothing for the user's own folders.
        split: train or validation, or another the data set has.
        download: let torchvision fetch it.

    Raises:
        UserError: if there is nothing of the kind, no image in it, or a class without images.
    """

    def __init__(self, data: str, name: str, split: str, download: bool = False):
        self.where = f"{data} ({split})"
        if name.partition("/")[0].lower() in STREAMS:
            raise UserError(
                f"{name} is a stream, and a run could not go on in it exactly where it was cut off"
            )
        try:
            self.dataset = self._open(data, name, split, download)
        except UserError:
            raise
        # timm, torchvision and the archives raise errors of many kinds.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{self.where} cannot be opened: {reason}") from None
        if not len(self.dataset):
            raise UserError(f"{self.where} holds no images")
        self.classes = self._classes()
        empty = self._empty_folders()
        if empty:
            raise UserError(f"{self.where} has a class folder without images: {empty[0]}")

    def _open(self, data: str, name: str, split: str, download: bool) -> Dataset:
        path = Path(data)
        if name:
            return create_dataset(name, root=data, split=split, download=download)
        if not path.exists():
            raise UserError(f"there is no {data}")
        if path.suffix == ".zip":
            return ImageDataset(data, reader=ReaderZip(data, split))
        dataset = create_dataset("", root=data, split=split)
        reader = dataset.reader
        if path.is_dir() and Path(reader.root) == path:
            # timm takes the folder itself where there is none for the split.
            raise UserError(f"{data} has no folder for the split {split!r}")
        if path.is_file():
            names = [sample[0].path for sample in reader.samples]
            folder = split_folder(names, split, data)
            inside = [name.startswith(folder) for name in names]
            reader.samples, reader.targets = reader.samples[inside], reader.targets[inside]
        return dataset

    def _classes(self) -> list[str]:
        reader = getattr(self.dataset, "reader", self.dataset)
        for attribute in ("class_to_idx", "class_name_to_idx"):
            indices = getattr(reader, attribute, None)
            if indices:
                return sorted(indices, key=indices.get)
        raise UserError(f"{self.where} does not say what its classes are called")

    def _empty_folders(self) -> list[str]:
        reader = getattr(self.dataset, "reader", None)
        if isinstance(reader, ReaderZip):
            folders = [Path(name) for name in reader.folders]
        elif isinstance(reader, ReaderImageFolder):
            folders = [Path(entry.path) for entry in os.scandir(reader.root) if entry.is_dir()]
        else:
            return []
        full = set(chain.from_iterable(Path(name).parents for name, _ in reader.samples))
        return sorted(str(folder) for folder in folders if folder not in full)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if isinstance(self.dataset, ImageDataset):
            # Its own reading replaces an unreadable image without telling.
            file, target = self.dataset.reader[index]
            with file:
                return Image.open(file).convert("RGB"), int(target)
        image, target = self.dataset[index]
        return image.convert("RGB"), int(target)

    def name(self, index: int) -> str:
        """Names the image in a message."""
        try:
            return self.dataset.filename(index)
        except (AttributeError, OSError):
            return f"number {index}"


def open_sources(args: Namespace, process: Process) -> tuple[Source, Source]:
    """The training and the validation images.

    Raises:
        UserError: if there are none, or their classes differ.
    """
    if args.dataset_download and not process.primary:
        distributed.barrier()  # until the primary process has it
    train, val = (
        Source(args.data, args.dataset, split, args.dataset_download)
        for split in (args.train_split, args.val_split)
    )
    if args.dataset_download and process.primary and process.world > 1:
        distributed.barrier()
    check_classes(train.classes, val.classes, train.where, val.where)
    return train, val


def check_classes(ours: list[str], theirs: list[str], we: str, they: str) -> None:
    """Refuses two lists of classes that differ.

    Raises:
        UserError: naming examples.
    """
    if ours == theirs:
        return
    only = [
        f"only {where}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for where, names in (
            (f"in {we}", sorted(set(ours) - set(theirs))),
            (f"in {they}", sorted(set(theirs) - set(ours))),
        )
        if names
    ]
    raise UserError(
        f"the classes of {we} and {they} differ ({'; '.join(only) or 'in their order'})"
    )
