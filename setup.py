"""Packaging of maskmill. Everything but this list of packages and dependencies is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# The folders of the checkout that are packages of `maskmill`: masks/ is imported as maskmill.masks. Everyday names at top
# level would meet a user's own masks.py or schemas/.
ROOMS = ["schemas", "masks", "pipelines", "training"]

# One number for the shards' provenance, the package and the CHANGELOG.
VERSION = "0.2.0"

BASE = [
    "apache-beam>=2.77",
    "google-crc32c>=1.5",
    # No wheel for Linux on ARM; there everything but mcg works.
    'higra>=0.6.12; platform_system != "Linux" or platform_machine == "x86_64"',
    "ijson>=3.3",
    "jinja2>=3.1.6",
    "numba>=0.61",
    "numpy>=2.0",
    "opencv-python-headless>=4.12",
    "pillow>=11.3",
    "protobuf>=5.29.5",
    "pyarrow>=16",
    "pycocotools>=2.0.8",
    "pyyaml>=6.0",
    "rich>=13.7",
    "scikit-image>=0.24",
    "scipy>=1.13",
]
TRAIN = [
    "flax>=0.12.8",
    "jax>=0.10.2",
    "optax>=0.2.8",
    "safetensors>=0.5",
    "tensorboardX>=2.6",
]
# Compiles for TPU slices on any x86 machine; JAX names the version that fits it.
PLAN = ["jax[tpu]>=0.10.2"]
RANKER = ["lightgbm>=4.3"]
TORCH = ["torch>=2.1", "torchvision>=0.16"]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20"]
GCP = ["apache-beam[gcp]>=2.77", "google-cloud-storage>=2.18"]
# The site. MkDocs 2 is another program, without plugins; Material 9 is made for MkDocs 1.
DOCS = [
    "ipykernel>=6.29",
    "mkdocs>=1.6,<2",
    "mkdocs-jupyter>=0.26,<1",
    "mkdocs-material>=9.6,<10",
    "mkdocstrings[python]>=1.0,<2",
]
FUZZ = ['atheris>=3.0; platform_system == "Linux"']  # coverage-guided; without it `make fuzz` goes by chance
DEV = [
    "beartype>=0.20",
    "check-wheel-contents>=0.6",
    "compose-spec>=0.2.1",
    "dask>=2024.8",
    "datasets>=4.0",
    "distributed>=2024.8",
    "faster-coco-eval>=1.6",
    "gcp-storage-emulator>=2026.7",
    "hypothesis>=6.100",
    "importlib-resources>=6.0",  # tensorflow-datasets needs it to prepare a data set, and does not say so
    "jaxtyping>=0.3",
    "jsonschema>=4.22",
    "kubernetes-validate>=1.36",
    "mypy>=1.11",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "scikit-learn>=1.5",
    "setuptools>=78.1.1",
    "tensorflow>=2.19",
    "tensorflow-datasets>=4.9.6",
    "twine>=6.1",
    "types-PyYAML",
    "webdataset>=1.0",
]

setup(
    name="maskmill",
    version=VERSION,
    description="Object masks for millions of images: FH, MCG-style, grid and ground-truth mask datasets, and a DetCon trainer.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The maskmill developers",
    url="https://github.com/maskmill/maskmill",
    project_urls={
        "Documentation": "https://github.com/maskmill/maskmill/tree/main/docs",
        "Changelog": "https://github.com/maskmill/maskmill/blob/main/CHANGELOG.md",
        "Paper": "https://arxiv.org/abs/2103.10957",
    },
    keywords=["segmentation", "object masks", "self-supervised learning", "DetCon", "Apache Beam", "TFRecord", "COCO"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=["maskmill", *(f"maskmill.{p}" for room in ROOMS for p in find_packages(include=[room, f"{room}.*"]))],
    package_dir={"maskmill": "maskmill", **{f"maskmill.{room}": room for room in ROOMS}},
    package_data={
        "maskmill": ["py.typed"],
        "": ["*.proto", "*.json", "*.npz", "*.html", "*.css", "*.js", "*.j2", "*.yaml"],
        "maskmill.masks.mcg": ["models/*.npz", "models/*.json"],
    },
    install_requires=BASE,
    extras_require={
        "train": TRAIN,
        "plan": PLAN,
        "torch": TORCH,
        "gcp": GCP,
        "ranker": RANKER,
        "onnx": ONNX,
        "fuzz": FUZZ,
        "docs": DOCS,
        "dev": DEV + TRAIN + GCP + RANKER + ONNX,
    },
    entry_points={
        "console_scripts": ["maskmill=maskmill.pipelines.commands.cli:main", "detcon=maskmill.training.cli:main"]
    },
)
