"""Write scikit-learn's handwritten digits as folders of images, to train a vision model on.

python -m data.make_digits DIR

The digits are 1,797 real images of 8 x 8 pixels. They are part of scikit-learn, so nothing is
downloaded. The command writes DIR/train/0 ... DIR/train/9 and DIR/val/0 ... DIR/val/9.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

# Every fifth image of a class goes to validation.
VAL_STRIDE = 5


def write_digits(folder: Path) -> dict[str, int]:
    """Write all digits to ``folder``; return the number of images in each split."""
    counts = {"train": 0, "val": 0}
    digits = load_digits()
    for label in digits.target_names:
        for index, image in enumerate(digits.images[digits.target == label]):
            split = "train" if index % VAL_STRIDE else "val"
            file = folder / split / str(label) / f"{index:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            # The grey levels of the digits go from 0 to 16.
            Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).save(file)
            counts[split] += 1
    return counts


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m data.make_digits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to write the images to")
    folder = parser.parse_args().folder
    for split, count in write_digits(folder).items():
        print(f"{folder / split}: {count} images")


if __name__ == "__main__":
    main()
