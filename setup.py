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
    package_data={"vision": ["recipes/*.yaml"]},
    # The wheels of ve-fairseq are for CPython 3.11 and 3.12 on Linux.
    python_requires=">=3.11,<3.13",
    install_requires=[
        # First release whose list of safe globals takes (function, name) pairs.
        "torch>=2.6",
        # Upstream's main with its dataclasses mended; fairseq 0.12.2 does not import on 3.11.
        "ve-fairseq==0.12.3",
        # Its checkpoints keep their history across restarts, and its ViT is made to be subclassed.
        "timm>=1.0.31",
        "sacrebleu>=2.4",
        "sentencepiece>=0.2",
        "subword-nmt>=0.3.8",
        # Detokenises for sacreBLEU as Moses does.
        "sacremoses>=0.1.1",
        # Recipes.
        "pyyaml>=6",
        # Unicode properties in the cleaning of WMT's text; sacremoses needs it as well.
        "regex>=2023.0",
        # Progress bars.
        "tqdm>=4.60",
        # Curves of a vision run, as an image and live.
        "matplotlib>=3.8",
        "tensorboard>=2.15",
        # Holds the handwritten digits of the vision quickstart; fairseq needs it as well.
        "scikit-learn>=1.3",
    ],
    extras_require={
        # The formatter's version is pinned, as another formats differently.
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff==0.17.6",
            # Generates bad input.
            "hypothesis>=6.100",
            # Runs the exported vision model, which torch writes with the other two.
            "onnxruntime>=1.20",
            "onnx>=1.17",
            "onnxscript>=0.3",
        ],
    },
)
