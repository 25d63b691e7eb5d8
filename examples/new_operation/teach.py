"""Trajectories that call `enhance_region`, and a tiny model that knows their words.

    python examples/new_operation/teach.py FOLDER/train.jsonl TRAJECTORIES MODEL

Operations are run as in a rollout, so that what is trained on is what the model will see. With a checkpoint of your own
no trajectories are needed to begin with: it reads in its prompt what the operation is for.
"""

import pathlib
import sys

import small_model

from data_pipeline.records import DATASET_INFO, write_records
from data_pipeline.sources import open_source
from data_pipeline.synthesis import BudgetMediaLoader, OperationTurn, TrajectoryPlan, run_plan
from pixel_reasoner_jax.operations import MediaState, allow_own
from pixel_reasoner_jax.rollout.settings import PolicySettings

OWN = "enhance:EnhanceRegion"
BAND = [0, 0.25, 1, 0.75]  # of a photo, where balloons fly


def trajectory(seed, registry, media):
    """The conversation about a photo: it is dark, a part of it is enhanced, and there is the answer."""
    turn = OperationTurn("It is too dark to tell.", "enhance_region", {"bbox_2d": BAND, "target_image": 1})
    plan = TrajectoryPlan("enhanced", (turn,), f"Now it shows. The answer is \\boxed{{{seed.text_answer}}}.")
    state = MediaState.from_query([media.load_image(image) for image in seed.images], resized=media.resized)
    return run_plan(plan, seed, state, registry, media.resized)


def main(table, data, model):
    if (data / DATASET_INFO).exists():  # written last
        return
    allow_own([OWN])  # the file is ours
    settings = PolicySettings(operations=(OWN,), limits=small_model.LIMITS)
    registry, media = settings.registry(), BudgetMediaLoader(small_model.BUDGETS)
    drafts = [trajectory(seed, registry, media) for seed in open_source(f"table:{table}")]
    small_model.make(model, [draft.messages for draft in drafts], settings)
    write_records(data, "trajectory", drafts)


if __name__ == "__main__":
    main(sys.argv[1], *map(pathlib.Path, sys.argv[2:]))
