"""Phase one as in sft_qwen2_5_vl_7b, of Qwen2.5-VL-3B-Instruct.

Command: pixel-reasoner sft --config configs/sft_qwen2_5_vl_3b.py
Hardware: 16 TPU v5e chips (12.8 of 15.8 GiB a chip as compiled), 8 of v6e (14.8 of 31.2) or of v5p (15.6 of 95.7);
  see docs/scaling.md.
Time and result: never run.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "sft_qwen2_5_vl_7b",
        {
            "workdir": "runs/sft_qwen2_5_vl_3b",
            "model.directory": "checkpoints/Qwen2.5-VL-3B-Instruct",
        },
    )
