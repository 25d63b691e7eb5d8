"""What every command takes. Nothing that a command runs is imported for it, so that help and mistakes are quick.

Names and defaults that belong to the modules that run are repeated here; tests/commands/test_options.py compares them.
"""

from __future__ import annotations

import argparse

from pixel_reasoner_jax.commands.model_options import Given, judge, model_or_served, own
from pixel_reasoner_jax.config import config_names
from pixel_reasoner_jax.config_values import CACHE_TYPES, DTYPES, WEIGHTS

PRESETS = ("3b", "7b", "32b", "72b", "tiny")  # sizes of released models
CHIPS = "v5p:2x2x4 or v5p-32, v4:2x2x2, v5e:4x4, v6e:4x8, or cpu:8"
ANSWERS = "~/.cache/pixel_reasoner_jax/answers"  # where those of served models are kept that belong to no local folder
GENERATED = "runs/generate"  # where `generate` saves, unless told otherwise

BENCHMARKS = (
    "vstar",
    "tallyqa",
    "infovqa",
    "mvbench",
    "hrbench4k",
    "hrbench8k",
    "visualprobe",
    "mme_realworld_lite",
    "docvqa",
    "textvqa",
    "chartqa",
    "videomme",
    "pixel_search",
    "data",
)
PROTOCOLS = ("paper", "model", "lmms-eval", "vlmevalkit")


def _step(text: str) -> int:
    """The step of a checkpoint."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no step of a checkpoint: it must be 1 or more")
    return int(text)


def _step_or_best(text: str) -> int | str:
    """The step of a checkpoint, or "best"."""
    return text if text == "best" else _step(text)


def experiment(parser: argparse.ArgumentParser, command: str, several_processes: bool) -> None:
    """The options of a command that runs an experiment file.

    Args:
      parser: of the command.
      command: its packaged configs are named; one that has the command's own name is the default.
      several_processes: it can go on from a checkpoint, and run as one of several processes.
    """
    names = [name for name in config_names(command) if "/" not in name]
    default = command if command in names else None
    parser.add_argument(
        "--config",
        metavar="FILE",
        required=default is None,
        default=default,
        help=f"experiment file (default: {default})" if default else f"experiment file, such as {', '.join(names)}",
    )
    parser.add_argument("--check", action="store_true", help="check the settings and end: nothing is read or written")
    if several_processes:
        parser.add_argument(
            "--resume", action="store_true", help="go on from the newest whole checkpoint in config.workdir"
        )
        parser.add_argument(
            "--resume-from", type=_step, metavar="STEP", help="go on from that step's; later ones are set aside"
        )
        _processes(parser)


def _processes(parser: argparse.ArgumentParser) -> None:
    """How a process finds the others of its run."""
    several = parser.add_argument_group("several processes", "started with the same command, on one or more hosts")
    several.add_argument(
        "--distributed", action="store_true", help="join the others, as the TPU slice, Slurm or Kubernetes says"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where none of them does: of process 0")
    several.add_argument("--processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="NUMBER", help="which of them this is, from 0")


def plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="experiment file of rl, sft or quickstart")
    parser.add_argument("--topology", required=True, metavar="CHIPS", help=f"chips and their number: {CHIPS}")
    parser.add_argument("--preset", choices=PRESETS, help="the model's size, where its directory is not here")
    parser.add_argument("--search", action="store_true", help="compile for other meshes too, and recommend the fastest")
    parser.add_argument("--phases", metavar="NAMES", help="only these phases, separated by commas")
    parser.add_argument(
        "--episode",
        action="store_true",
        help="simulate an episode of rl: seconds, tokens/s, hours of the run",
    )
    parser.add_argument(
        "--lengths",
        metavar="RUN",
        help="with --episode: lengths of the trajectories that a run of rl has stored",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help='a last line for programs: a list of phases, or with --episode {"phases": […], "episode": {…}}',
    )


def evaluate(parser: argparse.ArgumentParser) -> None:
    model_or_served(parser)
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="with --on the folder for results, records and trajectories, where the same command goes on; without, a"
        " file for the figures and the first 20 responses as JSON",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="responses to each question (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of sampling (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=float, help="0 is greedy (default: the protocol's, or 1 in the quickstart's world)"
    )
    _parameter_type(parser)
    own(parser)
    parser.add_argument(
        "--slots", type=int, default=64, action=Given, help="responses in flight (default: %(default)s)"
    )
    parser.add_argument(
        "--max-length",
        type=int,
        help="tokens of prompt and response together: with --slots, how large the KV cache is (default: the protocol's"
        " or the model's)",
    )
    benchmarks = parser.add_argument_group("benchmarks and one's own questions")
    benchmarks.add_argument(
        "--on",
        action="append",
        metavar="NAME:PATH",
        help="a benchmark and where its files are, or module:Class:PATH of your own; repeat it for several:"
        f" {', '.join(BENCHMARKS)}",
    )
    benchmarks.add_argument(
        "--protocol",
        metavar="NAME",
        help=f"{', '.join(PROTOCOLS)} (default: paper; for pixel_search and data, model: as the model was trained)",
    )
    benchmarks.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PART=VALUE",
        help="change a part of the protocol: budgets.image=256,16384, sampling.top_p=0.95, prompt=lmms-eval,"
        " scorer=NAME, order=shuffled, …",
    )
    benchmarks.add_argument("--mode", choices=("pixel", "text", "both"), help="with operations, without, or either way")
    benchmarks.add_argument(
        "--metric", metavar="RULE", help="the rule that scores data, by its name or module:function"
    )
    benchmarks.add_argument(
        "--submission", metavar="FILE", help="write the answers as the benchmark's server takes them"
    )
    benchmarks.add_argument(
        "--write-pass-rates",
        metavar="DATASET",
        help="write a copy of data:PATH in which each query has its share of right responses, which data.pass_rates"
        " filters by: a new folder for a data set, or for a table a new file beside it",
    )
    judge(parser)
    _mesh(parser, "devices, with --on")
    _processes(parser)
    world = parser.add_argument_group("the quickstart's world, without --on")
    world.add_argument("--split", default="heldout", help="of the world (default: %(default)s)")
    world.add_argument("--count", type=int, default=256, help="queries (default: %(default)s)")
    world.add_argument("--world-seed", type=int, default=0, help="seed of the world (default: %(default)s)")
    world.add_argument("--text-only", action="store_true", help="offer no operations")
    world.add_argument("--html", metavar="FILE", help="write a report with responses to the first 20 queries")


def check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="checkpoint directory, ours or Hugging Face's, or an adapter's"
    )
    parser.add_argument(
        "--on",
        metavar="data:PATH",
        help="a table or a data set of queries (default: an image, several images and a video that are built in)",
    )
    parser.add_argument("--count", type=int, default=8, metavar="N", help="queries of --on (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=2, metavar="N", help="responses to each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of sampling (default: %(default)s)")
    _parameter_type(parser)
    own(parser)
    parser.add_argument("--weights", choices=WEIGHTS, help="rollouts round to it, as with rollout.weights of rl")
    parser.add_argument("--cache-dtype", choices=CACHE_TYPES, help="of the KV cache, as rollout.cache_dtype of rl")
    parser.add_argument("--slots", type=int, default=64, help="responses in flight (default: %(default)s)")
    _mesh(parser, "devices")


def compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        nargs="+",
        metavar="DIR",
        help="what evaluate --out wrote; the others are compared with the first",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=6,
        metavar="N",
        help="flipped items shown with their responses, of each benchmark (default: %(default)s)",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with the tables and these items")


def generate(parser: argparse.ArgumentParser) -> None:
    model_or_served(parser)
    parser.add_argument("--image", action="append", metavar="FILE", help="the image; repeat it for several")
    parser.add_argument("--video", metavar="FILE", help="the video, in place of an image")
    parser.add_argument("--question", metavar="TEXT")
    parser.add_argument(
        "--queries",
        metavar="TABLE",
        help="many questions in place of one: a table or a data set, answered into the folder --out, where the same"
        " command goes on",
    )
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="responses (default: %(default)s)")
    parser.add_argument("--temperature", type=float, help="default: 0, greedy, for one response and 1 for several")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling (default: %(default)s)")
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="tokens of a response, what operations return included, in place of the model's limit",
    )
    _parameter_type(parser)
    own(parser)
    parser.add_argument(
        "--slots",
        type=int,
        default=64,
        action=Given,
        metavar="N",
        help="of --queries, responses in flight (default: %(default)s)",
    )
    parser.add_argument("--text-only", action="store_true", help="offer no operations")
    parser.add_argument(
        "--html",
        metavar="FILE",
        help=f"the page with the crops in place (default: beside --out, or {GENERATED}/NAME of what was shown)",
    )
    parser.add_argument(
        "--out", metavar="PATH", help="the same as JSON (default: beside the page); with --queries, the folder"
    )


def serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="[NAME=]DIR",
        help="checkpoint directory, ours or Hugging Face's, or an adapter's, and what clients call the model (default:"
        " the folder's name); again for another one beside it",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--api-key", metavar="KEY", help="what clients must show (default: PIXEL_REASONER_API_KEY's, if it is set)"
    )
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="SECONDS", help="for requests to end (default: %(default)s)"
    )
    _parameter_type(parser)
    own(parser)
    parser.add_argument("--text-only", action="store_true", help="offer no operations")
    media = parser.add_argument_group("media beside data: URLs, of which none is read unless it is allowed here")
    media.add_argument("--media-root", metavar="DIR", help="requests may name files in this folder")
    media.add_argument("--allow-url", action="store_true", help="requests may name files on public web servers")
    limits = parser.add_argument_group("limits")
    for name, default, meaning in (
        ("slots", 16, "responses that are written at once"),
        ("queue", 64, "responses that may wait; more are turned away"),
        ("max-length", 16384, "tokens of prompt and response together"),
        ("max-megabytes", 32, "of a request, and of a file that it names"),
        ("max-pixels", 40_000_000, "of an image"),
        ("max-images", 16, "of a request"),
        ("max-samples", 8, "of a request, its n"),
    ):
        limits.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )


def convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="Hugging Face checkpoint directory, or an adapter's")
    parser.add_argument("--out", required=True, metavar="DIR", help="the converted checkpoint; new or empty")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="type of the parameters (default: %(default)s)"
    )


def export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="DIR", help="working directory of a run, a converted model, or an adapter")
    parser.add_argument("--out", required=True, metavar="DIR", help="the Hugging Face directory to write; new or empty")
    parser.add_argument(
        "--step",
        type=_step_or_best,
        metavar="N",
        help="checkpoint of the run: its step, or best, by config.evaluation (default: the newest)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="type of the tensors (default: as the run trained, or an adapter's model is; float32 if converted)",
    )
    parser.add_argument("--max-shard-size", default="5GB", help="of one file (default: %(default)s)")


def view(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directories",
        nargs="*",
        metavar="DIR",
        help="what evaluate, rl, sft, synthesize or generate wrote, or a folder of such folders; several are shown side"
        " by side",
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the page, which opens without a server")
    parser.add_argument(
        "--live", metavar="RUN", help="follow a run that goes on: serves a page on this machine alone, until Ctrl-C"
    )
    parser.add_argument("--port", type=int, default=0, help="of --live (default: a free one)")
    parser.add_argument(
        "--model", metavar="DIR", help="whose tokenizer.json gives the tokens' texts (default: that of the run)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=20_000,
        metavar="N",
        help="trajectories shown of each DIR (default: %(default)s)",
    )


def _mesh(parser: argparse.ArgumentParser, title: str) -> None:
    devices = parser.add_argument_group(title, "sizes of the mesh's axes; -1 takes what is left")
    for axis, size in (("data", -1), ("fsdp", 1), ("tensor", 1)):
        devices.add_argument(
            f"--mesh.{axis}", type=int, default=size, action=Given, metavar="N", help="default: %(default)s"
        )


def _parameter_type(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", *DTYPES),
        action=Given,
        help="type of the parameters; auto: as stored, and float32 on a CPU (default: %(default)s)",
    )
