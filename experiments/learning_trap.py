"""The learning trap, with seeds: `python experiments/learning_trap.py --out DIR`; docs/learning_trap.md says more.

Every arm is a way to train the quickstart's model: its name and what it changes of configs/quickstart.py. Arms of a
seed share its pretraining, and those whose warm starts are alike share that too. Killed anywhere, the same command goes
on; `results.json` and the figures in DIR always hold what is finished.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ml_collections import ConfigDict

from data_pipeline import lessons
from pixel_reasoner_jax.commands import quickstart
from pixel_reasoner_jax.commands.ending import end_in_one_line
from pixel_reasoner_jax.commands.evaluate import prior_figures
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.config import check_values, variant
from pixel_reasoner_jax.errors import NoUpdateError
from pixel_reasoner_jax.evaluation.records import RESULTS, read_results
from pixel_reasoner_jax.evaluation.run import BENCHMARK
from pixel_reasoner_jax.evaluation.seeds import interval_over_seeds, panel
from pixel_reasoner_jax.files import write_text
from pixel_reasoner_jax.metrics import FILE as METRICS
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.report.documents import fill_part, markdown_table
from pixel_reasoner_jax.report.figures import figure
from pixel_reasoner_jax.report.text import interval_text, plain_table
from pixel_reasoner_jax.saved_config import load_saved, save_config
from pixel_reasoner_jax.training import rl, sft

SEEDS = (0, 1, 2, 3, 4)
"""Chosen before the first run, and never replaced."""

CURIOUS = {"rl.curiosity.alpha": 1.0, "rl.curiosity.rate_floor": 0.5}
PAPER = {"rl.curiosity.alpha": 0.5, "rl.curiosity.rate_floor": 0.3}  # and beta 0.05, as everywhere here
FOUR_UPDATES = {**CURIOUS, "rl.grpo.queries_per_episode": 64}  # of eight responses, in updates of 128
REPLAY, DYNAMIC = {"rl.replay.method": "paper"}, {"rl.grpo.sampling_rounds": 4}
SHARES = (0.0, 0.25, 0.5, 0.75)  # of misleading boxes; the main arms have 1


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
      title: for tables and figures.
      changes: of configs/quickstart.py, by dotted key.
      group: arms of a group are drawn in one figure.
      start: what the reinforcement learning begins with, "warm_start" or "pretraining".
      learns: whether there is any.
    """

    title: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    group: str = "main"
    start: str = "warm_start"
    learns: bool = True


ARMS = {
    "warm_start": Arm("warm start only", learns=False),
    "no_curiosity": Arm("no curiosity", {"rl.curiosity.alpha": 0.0}),
    "curiosity": Arm("alpha 1, H 0.5", CURIOUS),
    "paper": Arm("alpha 0.5, H 0.3 (paper)", PAPER),
    "dual": Arm("dual, from the paper's", {**PAPER, "rl.curiosity.multipliers": "dual"}),
    "no_warm_start": Arm("no warm start", CURIOUS, start="pretraining"),
    "no_correction_data": Arm("no correction data", {**CURIOUS, "warm_start.corrections": False}),
    "four_updates": Arm("four updates", FOUR_UPDATES, "replay"),
    "four_updates_ssr": Arm("+ SSR", FOUR_UPDATES | REPLAY, "replay"),
    "four_updates_dynamic": Arm("+ dynamic sampling", FOUR_UPDATES | DYNAMIC, "replay"),
    "four_updates_ssr_dynamic": Arm("+ both", FOUR_UPDATES | REPLAY | DYNAMIC, "replay"),
}
"""Without an option."""

MISLEADING_ARMS = {
    f"misleading_{share:g}_{name}": Arm(
        f"{share:.0%} misleading, {ARMS[name].title}",
        {**ARMS[name].changes, "warm_start.misplaced": share},
        "misleading",
    )
    for share in SHARES
    for name in ("no_curiosity", "curiosity")
}
"""With --misleading: how poor a warm start must be for the trap to close."""

VIDEOS = {
    "world": "videos",
    "pretraining.lessons": 8192,  # frames take longer to tell apart than places, and two frames may show the digit
    "pretraining.train.steps": 600,
    "pretraining.train.row_length": 112,
    "rl.rollout.max_images": 4,
    "rl.train.steps": 60,
}
VIDEO_ARMS = {
    f"video_{name}": Arm(f"videos, {ARMS[name].title}", {**ARMS[name].changes, **VIDEOS}, "video", learns=arm.learns)
    for name, arm in ARMS.items()
    if name in ("warm_start", "no_curiosity", "curiosity")
}
"""With --video: the same in the world of videos, with `select_frames` in place of crops, and fewer episodes."""

ALL_ARMS = ARMS | MISLEADING_ARMS | VIDEO_ARMS

QUICK = {
    **{f"{section}.train.batch_size": 8 for section in ("pretraining", "warm_start", "rl")},
    **{f"{section}.train.steps": 2 for section in ("pretraining", "warm_start", "rl")},
    **{f"{section}.train.micro_batch_rows": 4 for section in ("warm_start", "rl")},
    "pretraining.train.micro_batch_rows": 8,
    "pretraining.lessons": 16,
    "warm_start.trajectories": 8,
    "warm_start.lessons": 4,
    "rl.queries": 4,
    "rl.rollout.samples": 4,
    "rl.rollout.slots": 8,
    "rl.grpo.queries_per_episode": 2,
    "rl.train.checkpoint_every": 1,
    "evaluation.queries": 4,
    "evaluation.samples": 2,
    "evaluation.slots": 8,
}
"""Sizes that show that everything runs."""


def config_of(arm: Arm, seed: int, quick: bool) -> ConfigDict:
    """The quickstart's config with an arm's changes."""
    sizes = QUICK if quick else {}
    if quick and "rl.grpo.queries_per_episode" in arm.changes:  # as many updates in an episode
        sizes = sizes | {"rl.grpo.queries_per_episode": 8, "rl.train.steps": 8}
    config = variant("quickstart", {**arm.changes, **sizes, "seed": seed, "workdir": "learning_trap"})
    check_values(config)
    return config


def run_arm(name: str, arm: Arm, config: ConfigDict, directory: pathlib.Path) -> None:
    """Makes every stage of an arm that `directory` does not hold, and evaluates its last model on held-out images.

    Args:
      name, arm: the arm.
      config: of the arm.
      directory: of the seed.

    Raises:
      ConfigError: the directory holds stages that were made with other settings.
    """
    out = directory / "arms" / name
    shared = directory / f"shared_{config.world}"
    for path, settings in ((shared, _shared(config)), (out, config)):
        quickstart.check_settings(settings, path, "an experiment", "--out")
        save_config(settings, path)
    if (out / "evaluation" / RESULTS).exists():  # written last
        return
    model = start_model(arm, config, shared)
    if arm.learns:
        queries = shared / "data" / "queries"
        quickstart.synthesize(config, "queries", shared / "initial", queries)
        try:
            model = quickstart.train(rl.run, config, "rl", out / "run", model, queries)
        except NoUpdateError as error:
            print(f"{name}, seed {config.seed}: evaluated at its start, since {error}", file=sys.stderr)
    held_out = quickstart.seeds_of(config, config.evaluation.queries, "heldout")
    quickstart.evaluate_held_out(config, f"{name}, seed {config.seed}", model, held_out, out / "evaluation")


def _shared(config: ConfigDict) -> ConfigDict:
    """The settings that all arms of a seed share."""
    shared = copy.deepcopy(config)
    shared.queries = config.rl.queries
    del shared.rl, shared.warm_start
    return shared


def start_model(arm: Arm, config: ConfigDict, shared: pathlib.Path) -> pathlib.Path:
    """The model that an arm's reinforcement learning begins with, made where it is not there yet; its directory."""
    initial, data = shared / "initial", shared / "data"
    quickstart.make_initial_model(config, initial)
    quickstart.synthesize(config, "pretraining", initial, data / "pretraining")
    model = quickstart.train(sft.run, config, "pretraining", shared / "pretraining", initial, data / "pretraining")
    if arm.start == "pretraining":
        return model
    changes = {key.rpartition(".")[2]: value for key, value in arm.changes.items() if key.startswith("warm_start")}
    name = "-".join(["warm_start", *(f"{key}={value}" for key, value in changes.items())])
    quickstart.synthesize(config, "warm_start", initial, data / name)
    return quickstart.train(sft.run, config, "warm_start", shared / name, model, data / name)


@functools.cache
def prior_accuracy(world: str, queries: int, seed: int) -> float:
    """The accuracy of answering every held-out query of a seed with the favoured digit of its color."""
    return prior_figures(lessons.WORLDS[world].source(queries, "heldout", seed))["accuracy"]


def outcome(directory: pathlib.Path, learns: bool) -> dict[str, Any] | None:
    """What came of an arm in a seed, and the metrics of its episodes; None while it is not finished.

    Args:
      directory: of the arm in the seed.
      learns: see `Arm`.
    """
    if not (directory / "evaluation" / RESULTS).exists():
        return None
    figures = read_results(directory / "evaluation")["benchmarks"][BENCHMARK]
    lines = read_metrics(directory / "run") if (directory / "run" / METRICS).exists() else []
    episodes = [line for line in lines if line["step"]]  # 0: of an evaluation before the first one
    config = load_saved(directory)
    return {
        "seed": config.seed,
        "accuracy": figures["score"],
        "rapr": figures["rapr"],
        "prior": prior_accuracy(config.world, config.evaluation.queries, config.seed),
        "planned_updates": config.rl.train.steps if learns else 0,
        "made_updates": int(sum(row["updates"] for row in episodes)),
        "queries": int(sum(row["sampling_rounds"] for row in episodes)) * config.rl.grpo.queries_per_episode,
        "episodes": episodes,
    }


Outcomes = dict[str, list[dict[str, Any]]]
"""By arm, what came of it in each of its finished seeds, in their order."""


def outcomes(out: pathlib.Path, arms: Mapping[str, Arm] = ALL_ARMS) -> Outcomes:
    """What is finished in the directory of an experiment with these arms."""
    numbers = (re.fullmatch(r"seed-(\d+)", path.name) for path in out.iterdir())
    seeds = sorted(int(match[1]) for match in numbers if match)
    found = {
        name: [outcome(out / f"seed-{seed}" / "arms" / name, arm.learns) for seed in seeds]
        for name, arm in arms.items()
    }
    return {name: done for name, rows in found.items() if (done := [row for row in rows if row is not None])}


def results(found: Outcomes) -> dict[str, dict[str, list]]:
    """The contents of `results.json`: of each arm lists with a value for each finished seed, and intervals."""
    out = {}
    for name, rows in found.items():
        out[name] = {key: [row[key] for row in rows] for key in rows[0] if key != "episodes"}
        out[name] |= {f"{key}_interval": interval_over_seeds(out[name][key]) for key in ("accuracy", "rapr")}
    return out


PANELS = {
    "RaPR": ("rapr", (0.0, 1.0)),
    "accuracy": ("accuracy", (0.0, 1.0)),
    "uniform groups": ("uniform_groups", (0.0, 1.0)),
    "updates": ("updates", None),
    "bonus": ("reward_bonus", None),
    "entropy (nats)": ("entropy", None),
    "reward": ("reward", None),
    "response tokens": ("response_tokens", None),
}
FIGURES = {
    "main": ("RaPR", "accuracy"),
    "replay": ("RaPR", "accuracy", "uniform groups", "updates"),
    "misleading": ("RaPR", "accuracy"),
    "video": ("RaPR", "accuracy"),
    "health": tuple(PANELS),
}


def write_figures(found: Outcomes, directory: pathlib.Path) -> list[str]:
    """Writes a figure of each group of arms that has begun, and one of the metrics that show health; their names."""
    written = []
    for name, panels in FIGURES.items():
        arms = [arm for arm in ALL_ARMS if ALL_ARMS[arm].group == name] or ("no_curiosity", "curiosity")
        runs = {ALL_ARMS[arm].title: [row["episodes"] for row in found.get(arm, ())] for arm in arms}
        runs = {title: episodes for title, of_seeds in runs.items() if (episodes := [e for e in of_seeds if e])}
        if not runs:
            continue
        drawn = [panel(title, PANELS[title][0], runs, y_range=PANELS[title][1]) for title in panels]
        write_text(directory / f"{name}.svg", figure(drawn))
        written.append(name)
    return written


def table(found: Outcomes) -> list[list[str]]:
    """Rows of cells: the heading, then each arm's means with their intervals over seeds."""
    rows = [["", "Seeds", "Accuracy", "RaPR", "Updates made", "Queries asked"]]
    for name, of_arm in results(found).items():
        cells = []
        for key in ("accuracy", "rapr"):
            mean, interval = fmean(of_arm[key]), of_arm[f"{key}_interval"]
            cells.append(f"{mean:.3f}" if interval is None else interval_text(mean, interval))
        planned, made, asked = (sum(of_arm[key]) for key in ("planned_updates", "made_updates", "queries"))
        cells += [f"{made} of {planned}", str(asked)] if planned else ["–", "–"]
        rows.append([ALL_ARMS[name].title, ", ".join(map(str, of_arm["seed"])), *cells])
    return rows


def aims(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, bool | None, str]]:
    """What the paper leads to expect, as far as the arms in question are finished.

    Args:
      found: what `results` returned.

    Returns:
      (what is expected, whether it is so, the figures); None where one seed cannot tell.
    """
    out = []
    if plain := found.get("no_curiosity"):
        away = max(abs(a - p) for a, p in zip(plain["accuracy"], plain["prior"], strict=True))
        text = f"largest RaPR {max(plain['rapr']):.3f}, farthest from the prior {away:.3f}"
        held = max(plain["rapr"]) < 0.05 and away <= 0.05
        out.append(("No curiosity: in every seed RaPR < 0.05, accuracy within 0.05 of the prior", held, text))
        out += [_escape(name, plain, found[name]) for name in ("curiosity", "dual") if name in found]
    if {"four_updates", "four_updates_ssr"} <= found.keys():
        arms = found["four_updates"], found["four_updates_ssr"]
        shares = [sum(arm["made_updates"]) / sum(arm["planned_updates"]) for arm in arms]
        scores = [fmean(arm["accuracy"]) for arm in arms]
        text = f"{shares[1]:.0%} of the updates, {shares[0]:.0%} without; accuracy {scores[1]:.3f}, {scores[0]:.3f}"
        held = shares[1] >= 0.9 > shares[0] and scores[1] >= scores[0]
        out.append(("SSR: at least 90% of planned updates where there are less without, accuracy no lower", held, text))
    return out


def _escape(name: str, plain: Mapping[str, Any], curious: Mapping[str, Any]) -> tuple[str, bool | None, str]:
    """Whether an arm is out of the trap that the arm without curiosity is in."""
    before, after = (dict(zip(arm["seed"], arm["accuracy"], strict=True)) for arm in (plain, curious))
    gains = [after[seed] - before[seed] for seed in after if seed in before]
    intervals = [arm["accuracy_interval"] for arm in (plain, curious)]
    apart = None if None in intervals else intervals[0][1] < intervals[1][0]
    text = f"smallest RaPR {min(curious['rapr']):.3f}, gain {min(gains, default=0):+.3f} at least"
    held = min(curious["rapr"]) > 0.8 and min(gains, default=0) >= 0.2 and apart
    said = f"{ALL_ARMS[name].title}: in every seed RaPR > 0.8 and accuracy 0.2 higher than without, intervals apart"
    return said, held, text + {True: "", False: ", intervals not apart", None: ", one seed has no interval"}[apart]


SO = {True: "yes", False: "no", None: "cannot be told"}


DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def write_docs(found: Outcomes, docs: pathlib.Path = DOCS) -> None:
    """Writes the results into the documents learning_trap.md and rl.md, and the figures beside them."""
    figures = write_figures(found, docs / "learning_trap")
    pictures = {name: f"![Curves over episodes: {name}](learning_trap/{name}.svg)" for name in figures}
    health = pictures.pop("health", "")
    seeds = sorted({row["seed"] for rows in found.values() for row in rows})
    expected = [["Expected", "So?", "Measured"]]
    expected += [[said, SO[held], text] for said, held, text in aims(results(found))]
    parts = [
        f"Seeds: {', '.join(map(str, seeds))}. Means over seeds, with 95% intervals (Student's t).",
        markdown_table(table(found)),
        markdown_table(expected),
        *pictures.values(),
    ]
    fill_part(docs / "learning_trap.md", "results", "\n\n".join(parts))
    fill_part(docs / "rl.md", "health", health)


def run(args: argparse.Namespace) -> int:
    """Runs what is not finished yet, and prints what there is."""
    out = pathlib.Path(args.out).absolute()
    more = {**(MISLEADING_ARMS if args.misleading else {}), **(VIDEO_ARMS if args.video else {})}
    arms = args.arms or [*ARMS, *more]
    if args.write_docs:
        write_docs(outcomes(out))
        return 0
    enable_cache()
    for seed in args.seeds:
        for arm in arms:
            run_arm(arm, ALL_ARMS[arm], config_of(ALL_ARMS[arm], seed, args.quick), out / f"seed-{seed}")
            found = outcomes(out)
            write_text(out / RESULTS, json.dumps(results(found), indent=2, allow_nan=False) + "\n")
            write_figures(found, out / "figures")
    print(plain_table(table(found)))
    for said, held, text in aims(results(found)):
        print(f"{SO[held]}: {said}: {text}")
    print(json.dumps(results(found), allow_nan=False))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", required=True, metavar="DIR", help="for everything; what is finished in it stays")
    parser.add_argument("--arms", nargs="+", choices=ALL_ARMS, metavar="ARM", help=", ".join(ALL_ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="SEED", help="(default: 0 1 2 3 4)")
    parser.add_argument("--misleading", action="store_true", help="also a grid over the share of misleading boxes")
    parser.add_argument("--video", action="store_true", help="also a few arms in the world of videos")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which show only that everything runs")
    parser.add_argument("--write-docs", action="store_true", help="run nothing; write what is finished into docs/")
    args = parser.parse_args(argv)
    if min(args.seeds) < 0:
        parser.error("argument --seeds: a seed is 0 or greater")
    again = shlex.join(["python", "experiments/learning_trap.py", *(sys.argv[1:] if argv is None else argv)])
    return end_in_one_line(lambda: run(args), again, is_program=argv is None)


if __name__ == "__main__":
    sys.exit(main())
