"""Phase two of the example: GRPO with curiosity on the questions of the photos, without their boxes.

Command: examples/photos_to_model/run.sh
Hardware: two CPU cores.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "rl",
            "model.directory": "sft/model",
            "model.dtype": "float32",
            "model.remat": "none",
            # As saved with the model: photos and crops are shown at 112x112 pixels.
            "processor.image": None,
            "processor.crop": None,
            "processor.frame": None,
            "processor.video": None,
            "processor.video_frames": None,
            "processor.video_rate": None,
            "data.path": "photos/train.jsonl",
            "optimizer.learning_rate": 2e-4,
            "optimizer.b2": 0.98,
            "rollout.max_operations": 2,
            "rollout.max_images": 3,
            "rollout.max_response_tokens": 160,
            "rollout.max_length": 320,
            "rollout.slots": 64,
            "rewards.overlong_margin": 32,
            "grpo.queries_per_episode": 8,
            "replay.method": "none",  # an episode is one update
            "train.batch_size": 64,
            "train.row_length": 320,
            "train.micro_batch_rows": 16,
            "train.steps": 20,
            "train.checkpoint_every": 5,
        },
    )
