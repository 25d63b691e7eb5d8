"""Phase two of Qwen2.5-VL-7B with the choices of the released Pixel Reasoner code in place of the paper's.

Command: pixel-reasoner rl --config configs/rl_release_7b.py
Hardware: that of rl_qwen2_5_vl_7b, of whose model, batch and rows it is; not compiled by itself.
Time and result: never run.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/rl_release_7b",
            "operations.release": True,
            "rollout.later_temperature": 0.9,
            "rewards.rules": "release",
            "curiosity.variant": "release",
            "replay.alpha": 0.0,  # it repeats responses without weights
        },
    )
