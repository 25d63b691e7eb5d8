"""The allowed values of settings, for `config.check_values`.

Higher modules import the names from here; `models.model.REMAT` alone repeats them as keys, and a test compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

DTYPES = ("float32", "bfloat16")  # of parameters and of the computation
REMAT = ("none", "vision", "dots", "full", "groups")  # rematerialization policies, see `models.Qwen2_5_VL`
POSITION_RULES = ("released", "transformers")  # where positions go on after a video, see `processing.mrope_positions`
BOX_RULES = ("shown", "raw")  # how the boxes of calls are read, see `operations.CropImage`
CROP, SELECT = "crop_image_normalized", "select_frames"
DEFAULT_OPERATIONS, DEFAULT_SYNTAX = (CROP, SELECT), "tool_call"  # that models call, see `operations.make_registry`
OPERATIONS = (  # see `operations.known`
    CROP,
    SELECT,
    "zoom_image",
    "zoom_in_on_point",
    "rotate_image",
    "draw_boxes",
    "draw_lines",
    "frames_by_number",
    "frames_between",
    "frame_at_time",
    "find_segment",
    "swap_tiles",
    "swap_tiles_3x3",
    "deepeyes_zoom",
    "deepeyes_rotate",
    "chain_of_focus_zoom",
    "vlm_r3_zoom",
    "mini_o3_zoom",
    "vigorl_point",
    "vigorl_web_point",
    "vrag_bbox",
    "visrl_focus",
    "vilasr_boxes",
    "vilasr_lines",
    "horizontal_line",
    "vertical_line",
    "video_com_segment",
    "video_com_frame",
    "video_com_zoom",
)
SYNTAXES = ("tool_call", "tags", "action", "code", "inline", "labelled", "json", "assignment")  # of calls
# Of models and runs of ours that began before these were settings.
EARLIER_POSITION_RULE, EARLIER_BOX_RULE = "transformers", "raw"
LORA_TARGETS = ("query", "key", "value", "out", "gate", "up", "down")  # projections of the decoder
CACHE_TYPES = ("int8", "bfloat16", "float32")  # of the KV cache, in place of the computation's type
WEIGHTS = ("int8",)  # of the decoder in rollouts, in place of the computation's type
BUDGETS = ("image", "crop", "frame", "video")  # of tokens, see `processing.Budgets`
ANSWER_RULES = ("strict", "release")
WORLDS = ("images", "videos")  # of the quickstart
CURIOSITY_VARIANTS = ("paper", "release")  # of the reward
REWARD_TERMS = ("accuracy", "curiosity", "excess_operations", "length", "overlong")  # see `rewards.terms`
ADVANTAGES = ("centred", "std", "leave_one_out", "batch_whitened", "gdpo")  # see `training.advantages`
RESPONSE_MASKS = ("over_turn", "over_long")  # see `training.masks`
ALTERATIONS = ("masked", "noisy")  # of images, see `rollout.alterations`
RATES = ("query", "media", "global")  # that the bonus compares with H, see `training.curiosity_state`
MULTIPLIERS = ("fixed", "dual")  # of the reward, see `training.curiosity_state`
REPLAY = ("none", "paper", "release", "pairs")  # of responses, see `training.replay`
SCHEDULES = ("cosine", "linear", "constant")  # of the learning rate
LOSSES = ("clip", "dual_clip", "gspo", "cispo", "preference")  # of the policy
AGGREGATIONS = ("token_mean", "sequence_mean", "constant_length")  # of tokens' losses
# Of the sampler's probabilities to the trainer's.
CORRECTIONS = ("auto", "none", "tis", "mis", "sequence_tis", "sequence_mis", "geometric")
PAIRS = ("best_and_worst",)  # that preferences are of, see `training.preference`
KL_ESTIMATORS = ("k1", "k2", "k3")
CURVES = ("linear", "cosine", "steps")  # of a setting over a run, see `training.schedules`
POLICIES = ("old", "present", "reference")  # whose log-probabilities an update may look at, see `training.passes`
CONTEXTS = ("as_asked", "masked", "noisy", "text_only")  # of a pass, see `training.contexts`
TRACKERS = ("tensorboard", "wandb")  # of a run's figures
BEST_RULES = ("auto", "greatest", "smallest")  # of the metric by which the best checkpoint is chosen


def _choice(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in names), "one of " + ", ".join(map(repr, names))


def _part(*names: str) -> tuple[Callable[[Any], bool], str]:
    """A part by its name, or one's own: whether there is such a module shows when the run starts."""
    return (
        lambda value: value in names or all(value.partition(":"))
    ), f"{_choice(*names)[1]}, or module:function of your own"


def is_finite(value: Any) -> bool:
    """Whether a value is no infinite number and not NaN, nor holds one."""
    if isinstance(value, tuple | list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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


def _are_bounds(value: Any) -> bool:
    return len(value) == 2 and all(map(_is_number, value)) and 0 <= value[0] <= value[1]


def _is_budget(value: Any) -> bool:
    return len(value) == 2 and all(type(number) is int for number in value) and 1 <= value[0] <= value[1]


def _are_lora_targets(value: Any) -> bool:
    return all(name in LORA_TARGETS for name in value)


def _are_masks(value: Any) -> bool:
    return all(name in RESPONSE_MASKS for name in value)


def _are_trackers(value: Any) -> bool:
    return all(isinstance(name, str) and (name in TRACKERS or all(name.partition(":"))) for name in value)


def _are_named_paths(value: Any) -> bool:
    return all(isinstance(text, str) and (text == "pixel_search" or all(text.partition(":"))) for text in value)


def _is_own(value: Any) -> bool:
    return isinstance(value, str) and all(value.partition(":"))


def _are_own(value: Any) -> bool:
    return all(map(_is_own, value))


def _are_schedules(value: Any) -> bool:
    return all(
        isinstance(one, tuple | list)
        and len(one) >= 4
        and isinstance(one[0], str)
        and isinstance(one[1], str)
        and (one[1] in CURVES or all(one[1].partition(":")))
        and (len(one) == 4 or one[1] not in ("linear", "cosine"))
        and all(map(_is_number, one[2:]))
        for one in value
    )


def _are_operations(value: Any) -> bool:
    return all(isinstance(name, str) and (name in OPERATIONS or all(name.partition(":"))) for name in value)


_FRACTION = (lambda value: 0 <= value <= 1), "between 0 and 1"
_POSITIVE = (lambda value: value > 0), "greater than 0"
_NOT_NEGATIVE = (lambda value: value >= 0), "0 or greater"
_SHARE = (lambda value: 0 < value <= 1), "greater than 0 and at most 1"
_BOUNDS = _are_bounds, "(least, most), numbers that are 0 or greater, the first not larger"
_APART = (
    (lambda value: _are_bounds(value) and value[0] < value[1]),
    "(least, most), numbers that are 0 or greater, the first smaller",
)
_MOMENTUM = (lambda value: 0 <= value < 1), "0 or greater and less than 1"
_AXIS = (lambda value: value > 0 or value == -1), "greater than 0, or -1 for the devices that are left"
_TEXT = bool, "a text that is not empty"
_ANY_TEXT = (lambda value: True), "a text"

ROUNDED = ("rollout.weights", "rollout.cache_dtype")
MODEL_HAS = tuple(f"processor.{name}" for name in (*BUDGETS, "video_frames", "video_rate"))

OPTIONAL = (
    "model.position_rule",
    "operations.box_rule",
    "operations.names",
    "operations.syntax",
    "operations.guidelines",
    "media.root",
    "train.steps",
    "evaluation.loss_on",
    "evaluation.metric",
    *ROUNDED,
    *MODEL_HAS,
)
"""The last parts of the keys of settings that may be None, whatever value a config gives them.

The budgets of the processor are then those of the model (`MODEL_HAS`).
"""

OPEN = {
    "rewards.terms": dict(function="", weight=1.0, gate="none", cap=0.0),
    "rollout.subgroups": dict(
        samples=1,
        query="as_asked",
        guidelines="",
        images="as_they_are",
        strength=0.0,
        clean=False,
        operations=True,
        prefix="",
        follow_up="",
        response="sampled",
        trains_given=False,
        scored="answer",
        compared="all",
        counted=True,
        needs="none",
        above=0.0,
    ),
    "passes": dict(context="as_asked", strength=0.0, policy="present", entropy=0.0),
    "auxiliary.terms": dict(function="", coefficient=1.0),
}
"""Sections to which a config may add entries under labels of its own, each a section with these keys and first values.
"""

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": ((lambda value: 0 <= value < 2**31), f"0 or greater and less than {2**31}"),
    "workdir": _TEXT,
    "model.directory": _TEXT,
    "model.preset": _TEXT,
    "model.dtype": _choice(*DTYPES),
    "model.param_dtype": _choice(*DTYPES),
    "model.remat": _choice(*REMAT),
    "model.position_rule": _choice(*POSITION_RULES),
    **{
        f"processor.{name}": (
            _is_budget,
            "two whole numbers of tokens, (least, most), the first greater than 0 and not larger",
        )
        for name in BUDGETS
    },
    "processor.video_frames": _POSITIVE,
    "processor.video_rate": _NOT_NEGATIVE,
    "mesh.data": _AXIS,
    "mesh.fsdp": _AXIS,
    "mesh.tensor": _AXIS,
    "operations.padding": _FRACTION,
    "operations.box_rule": _choice(*BOX_RULES),
    "operations.names": (_are_operations, f"out of {', '.join(OPERATIONS)}, or module:name of your own"),
    "operations.syntax": _part(*SYNTAXES),
    "operations.guidelines": _TEXT,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.warmup_fraction": _FRACTION,
    "optimizer.schedule": _choice(*SCHEDULES),
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.b1": _MOMENTUM,
    "optimizer.b2": _MOMENTUM,
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "data.path": _TEXT,
    "data.shards": _NOT_NEGATIVE,
    "data.mixture": (_is_mixture, "pairs of a path and a weight greater than 0"),
    "data.workers": _NOT_NEGATIVE,
    "data.max_unreadable": _FRACTION,
    "data.pass_rates": (_is_range_of_rates, "(least, most), between 0 and 1"),
    "data.held_out": _MOMENTUM,
    "media.root": _TEXT,
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
    "train.log_samples": _NOT_NEGATIVE,
    "rollout.samples": ((lambda value: value >= 2), "at least 2: advantages compare the samples of a query"),
    "rollout.slots": _NOT_NEGATIVE,
    "rollout.cache_tokens": _NOT_NEGATIVE,
    "rollout.mesh.tensor": ((lambda value: value >= 0), "0 or greater; 0 is mesh.tensor"),
    "rollout.weights": _choice(*WEIGHTS),
    "rollout.cache_dtype": _choice(*CACHE_TYPES),
    "rollout.temperature": _POSITIVE,
    "rollout.later_temperature": _POSITIVE,
    "rollout.max_operations": _NOT_NEGATIVE,
    "rollout.max_response_tokens": _POSITIVE,
    "rollout.max_images": _NOT_NEGATIVE,
    "rollout.max_length": _POSITIVE,
    "rewards.rules": _choice(*ANSWER_RULES),
    "rewards.overlong_margin": _POSITIVE,
    "function": _part(*REWARD_TERMS),
    "weight": _NOT_NEGATIVE,
    "gate": (bool, "the label of a term, or 'none'"),
    "cap": _NOT_NEGATIVE,
    # Of a sub-group.
    "samples": _POSITIVE,
    "query": _part("as_asked"),
    "guidelines": _ANY_TEXT,
    "images": _part("as_they_are", *ALTERATIONS),
    "strength": _NOT_NEGATIVE,
    "prefix": _ANY_TEXT,
    "follow_up": _ANY_TEXT,
    "response": _part("sampled", "gold_response"),
    "scored": _part("answer"),
    "compared": _TEXT,
    "needs": (bool, "the label of a sub-group, or 'none'"),
    "above": ((lambda value: -1 <= value <= 1), "between -1, for all queries, and 1"),
    "curiosity.variant": _choice(*CURIOSITY_VARIANTS),
    "curiosity.alpha": _NOT_NEGATIVE,
    "curiosity.beta": _NOT_NEGATIVE,
    "curiosity.rate_floor": _FRACTION,
    "curiosity.max_operations": _NOT_NEGATIVE,
    "curiosity.rate": _choice(*RATES),
    "curiosity.rate_decay": _MOMENTUM,
    "curiosity.multipliers": _choice(*MULTIPLIERS),
    "curiosity.alpha_step": _NOT_NEGATIVE,
    "curiosity.beta_step": _NOT_NEGATIVE,
    "curiosity.alpha_bounds": _BOUNDS,
    "curiosity.beta_bounds": _BOUNDS,
    "replay.method": _part(*REPLAY),
    "replay.alpha": _NOT_NEGATIVE,
    "grpo.queries_per_episode": _POSITIVE,
    "grpo.sampling_rounds": _POSITIVE,
    "grpo.advantage": _part(*ADVANTAGES),
    "grpo.credit": _part("none"),
    "grpo.masks": (_are_masks, f"out of {', '.join(RESPONSE_MASKS)}"),
    "grpo.clip_low": _FRACTION,
    "grpo.clip_high": _NOT_NEGATIVE,
    "grpo.loss": _part(*LOSSES),
    "grpo.dual_clip": ((lambda value: value > 1), "greater than 1"),
    "grpo.aggregation": _part(*AGGREGATIONS),
    "grpo.constant_length": _NOT_NEGATIVE,
    "grpo.correction": _part(*CORRECTIONS),
    "grpo.correction_bounds": (
        (lambda value: _are_bounds(value) and value[1] > 0),
        f"{_BOUNDS[1]}, the second greater than 0",
    ),
    "grpo.entropy_fraction": _SHARE,
    "grpo.preference_pairs": _part(*PAIRS),
    "grpo.preference_beta": _POSITIVE,
    "grpo.shaping": (_are_own, 'texts of the form module:function, for example ("my_module:my_function",)'),
    "schedules": (
        _are_schedules,
        f'tuples of a key, one of {", ".join(CURVES)} or module:function, the first and the last value ("steps": any),'
        ' for example (("auxiliary.kl", "cosine", 0.04, 0.0),)',
    ),
    "context": _part(*CONTEXTS),
    "policy": _choice(*POLICIES),
    "passes.*.entropy": ((lambda value: -1 <= value <= 1), "between -1 and 1"),
    "auxiliary.terms.*.function": (_is_own, "module:function of your own"),
    "auxiliary.entropy": ((lambda value: -1 <= value <= 1), "between -1 and 1"),
    "auxiliary.kl": _NOT_NEGATIVE,
    "auxiliary.kl_estimator": _part(*KL_ESTIMATORS),
    "auxiliary.nll": _NOT_NEGATIVE,
    "auxiliary.kl_cov": _NOT_NEGATIVE,
    "auxiliary.kl_cov_fraction": _SHARE,
    "auxiliary.clip_cov_fraction": _FRACTION,
    "auxiliary.clip_cov_bounds": _APART,
    "world": _choice(*WORLDS),
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
    "metrics.trackers": (_are_trackers, f"out of {', '.join(TRACKERS)}, or module:Class of your own"),
    "evaluation.on": (_are_named_paths, 'texts of the form NAME:PATH, for example ("data:data/held_out.jsonl",)'),
    "evaluation.loss_on": _TEXT,
    "evaluation.every": _POSITIVE,
    "evaluation.metric": _TEXT,
    "evaluation.best": _choice(*BEST_RULES),
    "evaluation.patience": _NOT_NEGATIVE,
    "evaluation.warn_share": _SHARE,
}
"""For the last parts of a setting's key, where "*" is any label: a test of the value, and the allowed values in words.
The longest key counts.
Every setting has one but those that are True or False; no number may be infinite or NaN."""
