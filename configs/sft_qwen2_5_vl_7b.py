"""Phase one as in the Pixel Reasoner paper (arXiv 2505.15966): warm start of Qwen2.5-VL-7B-Instruct on trajectories.

The reference of `sft`: every setting is here and documented; other configs of `sft` hold what they change.

Command: pixel-reasoner sft --config configs/sft_qwen2_5_vl_7b.py
Hardware: 16 TPU v5p chips (19.5 of 95.7 GiB a chip as compiled), 32 of v6e (15.2 of 31.2) or of v5e (14.4 of 15.8);
  see docs/scaling.md.
Time and result: never run.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/sft_qwen2_5_vl_7b"

    config.model = ConfigDict()
    config.model.directory = "checkpoints/Qwen2.5-VL-7B-Instruct"
    config.model.dtype = "bfloat16"  # of the computation
    config.model.param_dtype = "float32"
    config.model.remat = "full"  # "none", "vision", "dots", "full" or "groups"
    # After a video, positions go on after the largest so far ("released": so Qwen2.5-VL was trained), or after the
    # longer of its sides ("transformers": from 5.3 on). None: as saved with the model, "released" for Hugging Face's.
    config.model.position_rule = config_dict.placeholder(str)

    # (least, most) tokens of 28x28 pixels for every kind of image: the paper's. None: as saved with the model, and for
    # Hugging Face's by its min_pixels and max_pixels, which are 4 and 16384 for an image of Qwen2.5-VL.
    config.processor = ConfigDict()
    config.processor.image = config_dict.FieldReference((4, 2000))
    config.processor.crop = config_dict.FieldReference((4, 1000))
    config.processor.frame = config_dict.FieldReference((4, 400))
    config.processor.video = config_dict.FieldReference((4, 256))
    config.processor.video_frames = config_dict.FieldReference(16)
    # Frames in a second of a video, video_frames at most; 0: video_frames of any.
    config.processor.video_rate = config_dict.FieldReference(0.0)

    config.operations = ConfigDict()
    config.operations.padding = 0.1  # crops are widened on every side by this fraction of the image
    config.operations.release = False  # True: the released code's boxes, crops, numbering and leniency
    # Boxes in pixels are of the image as "shown" to the model, or "raw", before resizing, as in version 0.1.0. None: as
    # saved with the model, "shown" for Hugging Face's.
    config.operations.box_rule = config_dict.placeholder(str)
    # What the model may call, such as ("zoom_image", "rotate_image"), and how it writes a call, such as "action", or
    # your own as module:name: docs/operations.md. None: as saved with the model, and for Hugging Face's
    # ("crop_image_normalized", "select_frames") and JSON in <tool_call> tags, "tool_call".
    config.operations.names = config_dict.placeholder(tuple)
    config.operations.syntax = config_dict.placeholder(str)
    # The text after a question. None: as saved with the model, and for Hugging Face's the paper's.
    config.operations.guidelines = config_dict.placeholder(str)

    config.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))  # -1 takes the devices that are left

    config.data = ConfigDict()
    # A data set of trajectories, 5,500 of 7,500 with operations; or a table of `messages`: docs/data.md.
    config.data.path = "data/pixel_reasoner_warm_start"
    config.data.mixture = ()  # in place of path: (path, weight) pairs, for example (("data/a", 3), ("data/b", 1))
    config.data.shuffle = True  # False: records in their own order, as for a curriculum
    config.data.held_out = 0.0  # share of the records that are not trained on: see evaluation.loss_on
    config.data.workers = 4  # processes that decode and resize; 0: threads
    config.data.max_unreadable = 0.01  # share of records that may be unreadable or not valid, and are skipped
    # How many shards the records are assigned to, each packed by itself: a multiple of data x fsdp, 0 for just that.
    # What a step trains on depends on their number: a run that may go on with more devices has enough from the start.
    config.data.shards = 0

    config.media = ConfigDict()
    # Paths of media start from this folder and do not lead out of it, whatever a record says. None: those of a table do
    # not lead out of its folder, and those of a data set name any file.
    config.media.root = config_dict.placeholder(str)
    config.media.max_pixels = 80_000_000  # of an image or a frame; so many are decoded at once, over all threads
    config.media.truncated = False  # True: images whose end is missing are taken, with grey in its place
    config.media.video_seconds = 120.0  # that decoding a video may take
    config.media.video_memory = 4.0  # GiB that decoding a video may take

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 1e-6
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.schedule = "cosine"
    config.optimizer.weight_decay = 0.0
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.clip_norm = 1.0
    config.optimizer.master_weights = False  # float32 copies of bfloat16 parameters, which take the updates

    config.lora = ConfigDict()
    config.lora.rank = 0  # of adapters, which alone are trained, and merged when exported; 0: none
    config.lora.alpha = 32.0  # their outputs are multiplied by alpha / rank
    config.lora.targets = ("query", "key", "value", "out", "gate", "up", "down")  # the decoder's projections

    config.train = ConfigDict()
    config.train.batch_size = 128  # trajectories an update
    config.train.row_length = 16_384  # tokens of a packed row
    config.train.micro_batch_rows = 1  # packed rows whose gradient is computed at once, for each of data x fsdp
    config.train.epochs = 5
    config.train.steps = config_dict.placeholder(int)  # stop after so many updates
    config.train.freeze_vision = True
    config.train.checkpoint_every = 50  # updates
    config.train.keep_checkpoints = 3
    # Responses of every evaluation, to each benchmark, that are stored in workdir/evaluations: `pixel-reasoner view`.
    config.train.log_samples = 8

    config.metrics = ConfigDict()
    # What gets the figures besides metrics.jsonl, with samples and alarms: "tensorboard", "wandb" (pip install
    # "pixel-reasoner-jax[wandb]"), or your own as module:Class, see docs/watching.md.
    config.metrics.trackers = ("tensorboard",)

    # What a run is measured by while it trains: docs/watching.md.
    config.evaluation = ConfigDict()
    # Benchmarks or one's own queries as NAME:PATH, like `evaluate --on`: ("data:data/held_out.jsonl", "vstar:DIR").
    config.evaluation.on = ()
    # Trajectories whose loss is computed; None: those that data.held_out keeps out of training, if any.
    config.evaluation.loss_on = config_dict.placeholder(str)
    config.evaluation.every = 50  # updates, and before the first and after the last one
    config.evaluation.queries = 256  # the most of each benchmark, and of the trajectories, evenly spread over it
    config.evaluation.samples = 1  # responses a query
    config.evaluation.temperature = 0.0
    # Responses in flight, for each of which the KV cache has room for the model's max_length, else train.row_length.
    config.evaluation.slots = 16
    # Which checkpoint is the best, and is kept: the greatest or the smallest of a metric, "loss" or one such as
    # "data/score"; None: the loss, else the first benchmark's score. "auto": the smallest loss, failure_rate or tokens,
    # else the greatest.
    config.evaluation.metric = config_dict.placeholder(str)
    config.evaluation.best = "auto"
    config.evaluation.patience = 0  # the run ends when so many in a row were not the best; 0: it does not
    config.evaluation.warn_share = 0.25  # of the time, above which a warning says what evaluations take
    return config
