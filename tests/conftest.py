"""Settings every test shares: the CPU backend, a compilation cache, few threads, the real tokenizer's folder."""

from __future__ import annotations

import functools
import gc
import os
import pathlib
from collections.abc import Callable, Iterator

from pixel_reasoner_jax.compilation import cache_directory

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_directory()))
# Tests compile much and compute little. XLA's own passes run as they always do, but LLVM takes no trouble over the code
# and gets it in one piece, and fused operations are written for it directly, not by way of MLIR: a third of the time.
FLAGS = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = " ".join((*FLAGS, os.environ.get("XLA_FLAGS", "")))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("OMP_NUM_THREADS", "2")  # torch, the oracle of many tests, reads this when imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing a test needs is downloaded

import hypothesis  # noqa: E402  the environment above comes first
import pytest  # noqa: E402

from tests.object_store import ObjectStore  # noqa: E402

# The same examples on every run and no deadline, so that a failure is a change's own; to look for new ones:
# pytest --hypothesis-profile=default
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

pytest_plugins = ["tests.trajectories"]


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


REPOSITORY = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def qwen_dir() -> pathlib.Path:
    """The folder of Qwen2.5-VL-7B-Instruct's real config, tokenizer and chat template (weights are not needed)."""
    directory = pathlib.Path(os.environ.get("QWEN2_5_VL_DIR", REPOSITORY.parent / "shared" / "qwen2_5_vl_7b"))
    if not (directory / "tokenizer_config.json").exists():
        pytest.skip(f"no Qwen2.5-VL tokenizer in {directory}; set QWEN2_5_VL_DIR to a folder that has it")
    return directory


@pytest.fixture
def use_media() -> Iterator[Callable[..., None]]:
    """Sets `MediaSettings` for a test, by keyword."""
    from pixel_reasoner_jax.processing.sources import media_settings, use_media_settings

    before = media_settings()
    yield lambda **settings: use_media_settings(settings)
    use_media_settings(before, quiet=True)


@pytest.fixture(scope="session", autouse=True)
def shared_engines() -> Iterator[None]:
    """Policies of one model and the same stop tokens trace and compile their steps once."""
    from pixel_reasoner_jax.rollout import runtime

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "Engine", functools.lru_cache(maxsize=8)(runtime.Engine))
        yield


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """A stand-in for gs://, which gcsfs and TensorStore take for the real one."""
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # it would ask Google what kind of bucket this is
    pytest.importorskip("gcsfs")
    with ObjectStore() as store:
        os.environ["STORAGE_EMULATOR_HOST"] = os.environ["TENSORSTORE_GCS_HTTP_URL"] = store.url
        os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "token"
        yield store


@pytest.fixture
def bucket(object_store, tmp_path, monkeypatch) -> str:
    """An empty bucket, as gs://…, and an empty cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return f"gs://bucket-{next(object_store.numbers)}"
