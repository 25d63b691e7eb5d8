"""Host memory while a large model is read and written: `python -m benchmarks.load_memory [--size 7b] [--json]`.

A checkpoint of random bfloat16 numbers is made on disk (16 GB for 7b), and removed at the end. Where the device is the
host, what a device would hold is subtracted from the peak of resident memory: `read` gives every parameter away as
soon as it is there, so that a machine of 8 GiB can read 7b; `write` and `convert` hold a whole model of `--write-size`.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pixel_reasoner_jax.arrays import write_arrays
from pixel_reasoner_jax.models import Config, Qwen2_5_VL
from pixel_reasoner_jax.models.tensors import INDEX, write_tensors
from pixel_reasoner_jax.models.weights import stream_parameters, tensor_targets

GIB = 2**30
SHARD = 4 * 10**9  # bytes of a file


def make_checkpoint(directory: pathlib.Path, size: str) -> int:
    """Writes a checkpoint of random numbers in the released form; returns its bytes."""
    config = Config.preset(size)
    block = _random_numbers()
    files: list[dict[str, tuple[tuple[int, ...], np.dtype]]] = [{}]
    held = total = 0
    for name, place in tensor_targets(config).items():
        bytes_ = 2 * math.prod(place.shape)
        total += bytes_
        if held + bytes_ > SHARD:
            files.append({})
            held = 0
        files[-1][name] = place.shape, block.dtype
        held += bytes_
    weight_map = {}
    for number, layout in enumerate(files):
        file = f"model-{number}.safetensors"
        weight_map |= dict.fromkeys(layout, file)
        write_tensors(directory / file, layout, (np.resize(block, shape) for shape, _ in layout.values()))
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    return total


def peak(reset: bool = False) -> int:
    """The process's largest resident memory so far, in bytes; with `reset`, it is counted anew from here."""
    status = pathlib.Path("/proc/self/status").read_text()
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def read(directory: pathlib.Path, size: str) -> int:
    """The most bytes on the host while any parameter is read, without the stack of layers that it is put in."""
    most = 0
    peak(reset=True)
    for path, variable in stream_parameters(directory, Config.preset(size), nnx.state(_abstract(size))):
        # A stack of layers is made before its first layer is read; any other parameter may be made of the host's copy.
        array = variable.get_value().block_until_ready()
        most = max(most, peak() - (array.nbytes if "layers" in path else 0))
        del array, variable
        peak(reset=True)
    return most


def write(directory: pathlib.Path, size: str, form: str) -> int:
    """The most bytes on the host beside a model's parameters while they are written."""
    graph, abstract = nnx.split(_abstract(size))
    block = _random_numbers()  # `Qwen2_5_VL.create` would take several times the model's memory on a CPU
    # One after the other, so that two copies of one array are the most beside the model.
    params = jax.tree.map(lambda leaf: jnp.asarray(np.resize(block, leaf.shape)).block_until_ready(), abstract)
    model = nnx.merge(graph, params)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    peak(reset=True)
    if form == "write":
        model.save_pretrained(directory / "written")
    else:
        write_arrays(directory / "converted", params)
    return peak() - held


def _abstract(size: str) -> Qwen2_5_VL:
    config = Config.preset(size)
    return nnx.eval_shape(lambda: Qwen2_5_VL(config, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16))


def _random_numbers() -> np.ndarray:
    return (0.02 * np.random.default_rng(0).standard_normal(2**22, np.float32)).astype(jnp.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="7b", help="preset that is read (default: %(default)s)")
    parser.add_argument(
        "--write-size", default="3b", help="preset that is written and converted (default: %(default)s)"
    )
    parser.add_argument("--directory", help="where there is room on a disk (default: a temporary directory)")
    parser.add_argument("--json", action="store_true", help="one last line with all figures")
    parser.add_argument("--only", choices=("read", "write", "convert"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        directory = pathlib.Path(args.directory)
        print(read(directory, args.size) if args.only == "read" else write(directory, args.write_size, args.only))
        return
    with tempfile.TemporaryDirectory(dir=args.directory) as scratch:
        free = shutil.disk_usage(scratch).free
        size = sum(2 * math.prod(place.shape) for place in tensor_targets(Config.preset(args.size)).values())
        if free < 1.2 * size:
            parser.error(
                f"{scratch} has {free / 1e9:.0f} GB free; {args.size} takes {size / 1e9:.0f}: give --directory"
            )
        figures = {"checkpoint_gib": make_checkpoint(pathlib.Path(scratch), args.size) / GIB}
        print(f"{args.size}: {figures['checkpoint_gib']:.1f} GiB on disk")
        for only, of in (("read", args.size), ("write", args.write_size), ("convert", args.write_size)):
            options = ["--only", only, "--size", args.size, "--write-size", args.write_size, "--directory", scratch]
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.load_memory", *options],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            figures[f"{only}_gib"] = int(done.stdout.split()[-1]) / GIB
            figures[f"{only}_seconds"] = time.perf_counter() - start
            print(f"{only:8}{of}: {figures[f'{only}_gib']:.2f} GiB on the host, {figures[f'{only}_seconds']:.0f} s")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
