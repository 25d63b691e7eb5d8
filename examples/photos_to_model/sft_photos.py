"""Phase one of the example: a tiny model learns the form of trajectories, where balloons are and which color.

Command: examples/photos_to_model/run.sh
Hardware: two CPU cores.
"""

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant


def get_config() -> ConfigDict:
    return variant(
        "sft_qwen2_5_vl_7b",
        {
            "workdir": "sft",
            "model.directory": "initial",
            "model.dtype": "float32",
            "model.remat": "none",
            # As saved with the model: photos and crops are shown at 112x112 pixels.
            "processor.image": None,
            "processor.crop": None,
            "processor.frame": None,
            "processor.video": None,
            "processor.video_frames": None,
            "processor.video_rate": None,
            "data.path": "trajectories",
            "data.workers": 0,
            "optimizer.learning_rate": 1.5e-3,
            "optimizer.b2": 0.98,  # a run of some hundred steps does not wait for a slower mean
            "train.batch_size": 32,
            "train.row_length": 256,
            "train.micro_batch_rows": 16,
            "train.epochs": 20,
            "train.freeze_vision": False,  # it knows nothing yet
        },
    )
