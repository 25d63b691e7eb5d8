"""Phase two as in rl_qwen2_5_vl_7b, of Qwen2.5-VL-3B.

Command: pixel-reasoner rl --config configs/rl_qwen2_5_vl_3b.py
Hardware: 8 TPU chips of v5p (30.9 of 95.7 GiB a chip as compiled) or of v6e (30.9 of 31.2); 16 of v5e with
  --config.mesh.tensor=2 --config.model.remat=groups (11.8 of 15.8); see docs/scaling.md.
Time and result: never run.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/rl_qwen2_5_vl_3b",
            "model.directory": "runs/sft_qwen2_5_vl_3b/model",
        },
    )
