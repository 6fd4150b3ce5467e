from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="revcol-fairseq-timm",
    version="0.1.0",
    description="Reversible column networks (RevCol) for fairseq translation and timm",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["revcol_nlp", "revcol_nlp.*", "vision", "vision.*"]),
    # The wheels of ve-fairseq are for CPython 3.11 and 3.12 on Linux.
    python_requires=">=3.11,<3.13",
    install_requires=[
        # First release whose list of safe globals takes (function, name) pairs.
        "torch>=2.6",
        # Upstream's main with its dataclasses mended; fairseq 0.12.2 does not import on 3.11.
        "ve-fairseq==0.12.3",
        "timm>=1.0.12",
        "sacrebleu>=2.4",
        "sentencepiece>=0.2",
        "subword-nmt>=0.3.8",
        # Detokenises for sacreBLEU as Moses does.
        "sacremoses>=0.1.1",
    ],
    extras_require={
        # The formatter's version is pinned, as another formats differently.
        "test": ["pytest>=8", "pytest-xdist>=3.5", "ruff==0.17.6"],
    },
)
