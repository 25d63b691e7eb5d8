"""Recipes side by side in the quickstart's world: `python experiments/recipes.py --out DIR`; see docs/recipes.md.

Every arm trains the quickstart's poor warm start with what a recipe of `configs/recipes/` has of rewards, sub-groups,
advantages, losses, replay and schedules. Operations, sizes, batches and the optimizer are the quickstart's, so that
the arms differ in the method alone. Killed anywhere, the same command goes on; `results.json` in DIR always holds what
is finished.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments.learning_trap import DOCS, Arm, Outcomes, config_of, outcomes, results, run_arm
from pixel_reasoner_jax.commands.ending import end_in_one_line
from pixel_reasoner_jax.compilation import enable_cache
from pixel_reasoner_jax.config import leaves, load_config
from pixel_reasoner_jax.evaluation.records import RESULTS
from pixel_reasoner_jax.files import write_text
from pixel_reasoner_jax.report.charts import moving_average
from pixel_reasoner_jax.report.documents import fill_part, markdown_table
from pixel_reasoner_jax.report.text import interval_text, plain_table

SEEDS = (0, 1, 2)
RECIPES = (
    "pixel_reasoner",
    "pixel_reasoner_release",
    "adagrpo",
    "look_less_reason_more",
    "deepeyes",
    "mini_o3",
    "dapo",
    "dr_grpo",
    "gspo",
    "cispo",
    "noisyrollout",
    "vppo",
    "papo",
    "vogue",
)
"""Those whose data are questions and answers, and that look with an operation or change how is learned."""

NAMES = ("quickstart", *RECIPES)

ANSWERS_IN_BOXES = {"mini_o3": {"rl.rewards.terms.correct.function": "accuracy"}}
"""The quickstart's model knows no other form of answers, where a recipe wants them in tags."""

METHOD = ("rewards", "curiosity", "grpo", "auxiliary", "replay", "passes", "schedules", "rollout.subgroups")
"""Sections and settings that are the method's."""

SIZES = ("rewards.overlong_margin", "grpo.queries_per_episode", "grpo.constant_length")
"""Settings among these that are sizes, which the quickstart's world has of its own."""

REACHED, WINDOW = 0.8, 5  # an accuracy in training, as a running mean over so many episodes


def changes_of(recipe: str) -> dict[str, Any]:
    """What a recipe sets of the method that configs/quickstart.py has otherwise, by dotted key of that."""
    ours, theirs = dict(leaves(load_config("quickstart"))), dict(leaves(load_config(f"recipes/{recipe}")))
    found = {
        f"rl.{key}": value
        for key, value in theirs.items()
        if key.startswith(METHOD) and key not in SIZES and (f"rl.{key}" not in ours or ours[f"rl.{key}"] != value)
    }
    if any(key.startswith("rl.rollout.subgroups.") for key in found):
        samples = [value for key, value in found.items() if key.endswith(".samples")]
        found["rl.rollout.samples"] = sum(samples)
    return found | ANSWERS_IN_BOXES.get(recipe, {})


def make_arms() -> dict[str, Arm]:
    """The quickstart's own multipliers, which leave the trap in every seed, and an arm for each recipe."""
    return {name: Arm(name, changes_of(name) if name in RECIPES else {}, "recipes") for name in NAMES}


def first_reached(episodes: Sequence[Mapping[str, Any]]) -> int | None:
    """The episode after which the accuracy in training is `REACHED`; None where it never is."""
    points = [(row["step"], row["accuracy"]) for row in episodes if row.get("accuracy") is not None]
    return next((step for step, value in moving_average(points, WINDOW) if value >= REACHED), None)


def table(found: Outcomes) -> list[list[str]]:
    """Rows of cells: the heading, then each recipe's means with their intervals over seeds."""
    rows = [["Recipe", "Seeds", "Accuracy", "RaPR", "Operations", f"Episodes to {REACHED}"]]
    for name, of_arm in results(found).items():
        cells = []
        for key in ("accuracy", "rapr"):
            mean, interval = fmean(of_arm[key]), of_arm[f"{key}_interval"]
            cells.append(f"{mean:.3f}" if interval is None else interval_text(mean, interval))
        runs = [row["episodes"] for row in found[name]]
        last = [episodes[-1].get("operations", 0.0) for episodes in runs if episodes]
        steps = [first_reached(episodes) for episodes in runs]
        cells += [
            f"{fmean(last):.2f}" if last else "–",
            ", ".join("never" if one is None else str(one) for one in steps),
        ]
        rows.append([name, ", ".join(map(str, of_arm["seed"])), *cells])
    return rows


def run(args: argparse.Namespace) -> int:
    """Runs what is not finished yet, and prints what there is."""
    out, arms = pathlib.Path(args.out).absolute(), make_arms()
    if args.write_docs:
        fill_part(DOCS / "recipes.md", "results", markdown_table(table(outcomes(out, arms))))
        return 0
    enable_cache()
    for seed in args.seeds:
        for name in args.recipes or arms:
            run_arm(name, arms[name], config_of(arms[name], seed, args.quick), out / f"seed-{seed}")
            found = outcomes(out, arms)
            write_text(out / RESULTS, json.dumps(results(found), indent=2, allow_nan=False) + "\n")
    print(plain_table(table(found)))
    print(json.dumps(results(found), allow_nan=False))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", required=True, metavar="DIR", help="for everything; what is finished in it stays")
    parser.add_argument("--recipes", nargs="+", choices=NAMES, metavar="RECIPE", help=", ".join(NAMES))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="SEED", help="(default: 0 1 2)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which show only that everything runs")
    parser.add_argument("--write-docs", action="store_true", help="run nothing; write what is finished into docs/")
    args = parser.parse_args(argv)
    if min(args.seeds) < 0:
        parser.error("argument --seeds: a seed is 0 or greater")
    again = shlex.join(["python", "experiments/recipes.py", *(sys.argv[1:] if argv is None else argv)])
    return end_in_one_line(lambda: run(args), again, is_program=argv is None)


if __name__ == "__main__":
    sys.exit(main())
