"""The allowed values of settings, for `config.check_values`.

Higher modules import the names from here; `models.model.REMAT` alone repeats them as keys, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

DTYPES = ("float32", "bfloat16")  # of parameters and of the computation
REMAT = ("none", "vision", "dots", "full", "groups")  # rematerialization policies, see `models.Qwen2_5_VL`
POSITION_RULES = ("released", "transformers")  # where positions go on after a video, see `processing.mrope_positions`
BOX_RULES = ("shown", "raw")  # how the boxes of calls are read, see `operations.CropImage`
# Of models and runs of ours that began before these were settings.
EARLIER_POSITION_RULE, EARLIER_BOX_RULE = "transformers", "raw"
LORA_TARGETS = ("query", "key", "value", "out", "gate", "up", "down")  # projections of the decoder
ANSWER_RULES = ("strict", "release")
CURIOSITY_VARIANTS = ("paper", "release")  # of the reward
SCHEDULES = ("cosine", "linear", "constant")  # of the learning rate


def _choice(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in names), "one of " + ", ".join(map(repr, names))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_mixture(value: Any) -> bool:
    return all(
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and _is_number(pair[1])
        and pair[1] > 0
        for pair in value
    )


def _is_range_of_rates(value: Any) -> bool:
    return len(value) == 2 and all(map(_is_number, value)) and 0 <= value[0] <= value[1] <= 1


def _are_lora_targets(value: Any) -> bool:
    return all(name in LORA_TARGETS for name in value)


_FRACTION = (lambda value: 0 <= value <= 1), "between 0 and 1"
_POSITIVE = (lambda value: value > 0), "greater than 0"
_NOT_NEGATIVE = (lambda value: value >= 0), "0 or greater"

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": _NOT_NEGATIVE,
    "model.dtype": _choice(*DTYPES),
    "model.param_dtype": _choice(*DTYPES),
    "model.remat": _choice(*REMAT),
    "model.position_rule": _choice(*POSITION_RULES),
    "operations.padding": _FRACTION,
    "operations.box_rule": _choice(*BOX_RULES),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.warmup_fraction": _FRACTION,
    "optimizer.schedule": _choice(*SCHEDULES),
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "data.shards": _NOT_NEGATIVE,
    "data.mixture": (_is_mixture, "pairs of a path and a weight greater than 0"),
    "data.workers": _NOT_NEGATIVE,
    "data.max_unreadable": _FRACTION,
    "data.pass_rates": (_is_range_of_rates, "(least, most), between 0 and 1"),
    "media.max_pixels": _POSITIVE,
    "media.video_seconds": _POSITIVE,
    "media.video_memory": ((lambda value: value >= 0.25), "at least 0.25: a decoder takes as much"),
    "lora.rank": _NOT_NEGATIVE,
    "lora.alpha": _POSITIVE,
    "lora.targets": (_are_lora_targets, f"out of {', '.join(LORA_TARGETS)}"),
    "train.batch_size": _POSITIVE,
    "train.micro_batch_rows": _POSITIVE,
    "train.row_length": _POSITIVE,
    "train.steps": _POSITIVE,
    "train.epochs": _POSITIVE,
    "train.checkpoint_every": _POSITIVE,
    "train.keep_checkpoints": _POSITIVE,
    "rollout.samples": ((lambda value: value >= 2), "at least 2: advantages compare the samples of a query"),
    "rollout.slots": _POSITIVE,
    "rollout.temperature": _POSITIVE,
    "rollout.later_temperature": _POSITIVE,
    "rewards.rules": _choice(*ANSWER_RULES),
    "curiosity.variant": _choice(*CURIOSITY_VARIANTS),
    "curiosity.alpha": _NOT_NEGATIVE,
    "curiosity.beta": _NOT_NEGATIVE,
    "curiosity.rate_floor": _FRACTION,
    "curiosity.max_operations": _NOT_NEGATIVE,
    "grpo.queries_per_episode": _POSITIVE,
    "grpo.clip_low": _FRACTION,
    "grpo.clip_high": _NOT_NEGATIVE,
    "pretraining.lessons": _POSITIVE,
    "warm_start.trajectories": _POSITIVE,
    "warm_start.lessons": _NOT_NEGATIVE,
    "warm_start.misplaced": _FRACTION,
    "warm_start.favoured": _FRACTION,
    "rl.queries": _POSITIVE,
    "evaluation.queries": _POSITIVE,
    "evaluation.samples": _POSITIVE,
    "evaluation.slots": _POSITIVE,
    "evaluation.temperature": _NOT_NEGATIVE,
}
"""For the last parts of a setting's key: a test of the value, and the allowed values in words. Settings that a module
checks when it starts are not listed here."""
