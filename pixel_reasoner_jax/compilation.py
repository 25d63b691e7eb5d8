"""The persistent compilation cache, which keeps compiled programs between runs."""

from __future__ import annotations

import os
import pathlib

from etils import epath

from pixel_reasoner_jax.files import as_path


def cache_directory() -> pathlib.Path | epath.Path:
    """The cache's directory: `JAX_COMPILATION_CACHE_DIR`, else `~/.cache/pixel_reasoner_jax/jax`."""
    default = pathlib.Path.home() / ".cache" / "pixel_reasoner_jax" / "jax"
    return as_path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or default)


def enable_cache() -> None:
    """Makes JAX keep compiled programs in `cache_directory()`; a second run then starts without compiling.

    A cache that the program has set in `jax.config` stays as it is.
    """
    import jax

    if jax.config.jax_compilation_cache_dir not in (None, os.environ.get("JAX_COMPILATION_CACHE_DIR")):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_directory()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
