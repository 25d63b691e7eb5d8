"""Phase two as in the Pixel Reasoner paper (arXiv 2505.15966): curiosity-driven GRPO of Qwen2.5-VL-7B.

The reference of `rl`: every setting is here and documented; other configs of `rl` hold what they change.

Command: pixel-reasoner rl --config configs/rl_qwen2_5_vl_7b.py
Hardware: 16 TPU v5p chips (30.7 of 95.7 GiB a chip as compiled), 32 of v6e (26.6 of 31.2), or 32 of v5e with
  --config.mesh.tensor=4 (12.7 of 15.8); see docs/scaling.md.
Time and result: never run.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.workdir = "runs/rl_qwen2_5_vl_7b"

    config.model = ConfigDict()
    config.model.directory = "runs/sft_qwen2_5_vl_7b/model"  # what phase one exported
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
    config.data.path = "data/pixel_reasoner_rl"  # queries, a data set or a table such as queries.jsonl: docs/data.md
    config.data.mixture = ()  # in place of path: (path, weight) pairs, for example (("data/a", 3), ("data/b", 1))
    config.data.shuffle = True  # False: records in their own order, as for a curriculum
    config.data.pass_rates = (0.0, 1.0)  # queries whose stored pass_rate is known and not within are in no epoch
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
    config.optimizer.warmup_fraction = 0.03
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
    config.train.batch_size = 256  # query-response pairs an update
    config.train.row_length = 16_384  # tokens of a packed row
    config.train.micro_batch_rows = 1  # packed rows whose gradient is computed at once, for each of data x fsdp
    config.train.epochs = 1  # passes over the queries
    config.train.steps = config_dict.placeholder(int)  # stop after so many planned updates, made or skipped
    config.train.freeze_vision = False
    config.train.checkpoint_every = 1  # episodes
    config.train.keep_checkpoints = 3
    # Responses of every episode that are stored in workdir/samples, with log-probabilities of sampler and trainer, and
    # of every evaluation, to each benchmark, that are stored in workdir/evaluations.
    config.train.log_samples = 8

    config.rollout = ConfigDict()
    config.rollout.samples = 8  # G, responses a query
    config.rollout.temperature = 1.0  # of the first turn
    config.rollout.later_temperature = 1.0
    config.rollout.max_operations = 4
    config.rollout.max_response_tokens = 12_288
    config.rollout.max_images = 16
    config.rollout.max_length = 16_384  # prompt and response
    # Responses in flight; and tokens that the KV cache holds for all of them together: where they need more, the
    # youngest wait in the host's memory. slots = 0: as many as memory allows, decided when the run begins, which keeps
    # it. cache_tokens = 0: what memory allows then, else enough for responses that are all of max_length. With
    # slots = 0, memory may allow less than the cache_tokens that are given.
    config.rollout.slots = 0
    config.rollout.cache_tokens = 0
    # The devices' mesh in rollouts, for which the parameters are laid out once an episode; tensor=0: as in config.mesh.
    # With fsdp above 1, each decoding step gathers the parameters anew, where there is no memory to have them at hand.
    config.rollout.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=0))
    # "int8": the decoder's matrices are rounded for rollouts, which then read half the bytes. None: as in model.dtype.
    config.rollout.weights = config_dict.placeholder(str)
    # "int8": keys and values are rounded, so that memory holds twice the tokens. None: as in model.dtype. On TPUs, each
    # device has to have an even number of num_key_value_heads: tensor is at most 2 with 7B, and 1 with 3B.
    config.rollout.cache_dtype = config_dict.placeholder(str)

    # Sub-groups of the responses to a query, by labels of yours; without one, all are asked alike. samples: how many
    # of rollout.samples it has. What is different about it: query, a function of the query (module:function);
    # guidelines, the text after the question; images, "masked" or "noisy" by strength, or module:function, which
    # updates take without that where clean; operations=False: a call ends the response; prefix: words it begins with;
    # follow_up: a message after its first answer; response="gold_response": what the data give. trains_given: prefix
    # and given response are trained on. scored: a function that says how right it is. compared: responses with the same
    # word here are compared with one another. counted=False: it is in no figure. needs, above: it is asked where the
    # responses of that sub-group are more right than this on average. See docs/rl.md.
    config.rollout.subgroups = ConfigDict()

    config.rewards = ConfigDict()
    config.rewards.rules = "strict"  # "release": the released code's looser comparison of answers
    # The terms of the reward by their labels; yours may have others. The metrics show each as reward_<label>.
    # function: "accuracy", "curiosity", "excess_operations", "length" or "overlong" (see rewards/terms.py), or your own
    # as module:function. weight: in the sum; 0 only measures. gate: the term counts only where the function of the term
    # with this label is greater than 0. cap: its largest absolute value; 0: none.
    config.rewards.terms = ConfigDict()
    config.rewards.terms.correct = ConfigDict(dict(function="accuracy", weight=1.0, gate="none", cap=0.0))
    config.rewards.terms.bonus = ConfigDict(dict(function="curiosity", weight=1.0, gate="none", cap=0.0))
    config.rewards.terms.penalty = ConfigDict(dict(function="excess_operations", weight=1.0, gate="none", cap=0.0))
    # "overlong" counts from so many tokens before rollout.max_response_tokens on.
    config.rewards.overlong_margin = 4096

    config.curiosity = ConfigDict()
    config.curiosity.variant = "paper"
    config.curiosity.alpha = 0.5
    config.curiosity.beta = 0.05
    config.curiosity.rate_floor = 0.3  # H
    config.curiosity.max_operations = 1  # N
    # Which RaPR the bonus compares with H: that of the "query", or an average over episodes of queries with its kind of
    # "media", or of all ("global"), of which every episode keeps the share rate_decay.
    config.curiosity.rate = "query"
    config.curiosity.rate_decay = 0.9
    # "fixed": alpha and beta stay as they are. "dual": they begin so (a run that goes on keeps its own), and after an
    # episode each takes a step along its constraint's violation, within bounds: alpha_step * (H - mean RaPR), and
    # beta_step * (mean operations - N).
    config.curiosity.multipliers = "fixed"
    # With RaPR at 0 and H 0.3, alpha grows by 0.15 an episode, which doubles the paper's alpha in four. In the
    # quickstart's world smaller steps come too late, and with larger ones alpha swings: docs/learning_trap.md.
    config.curiosity.alpha_step = 0.5
    config.curiosity.beta_step = 0.01
    config.curiosity.alpha_bounds = (0.0, 4.0)
    config.curiosity.beta_bounds = (0.0, 0.5)

    config.grpo = ConfigDict()
    config.grpo.queries_per_episode = 512  # the behaviour policy is renewed after so many
    config.grpo.clip_low = 0.2
    config.grpo.clip_high = 0.35
    # "centred": reward less the group's mean; "std": divided by its standard deviation; "leave_one_out";
    # "batch_whitened"; "gdpo": every term of the reward by itself; or your own as module:function. See
    # training/advantages.py.
    config.grpo.advantage = "centred"
    # "none": all tokens of a response have its advantage; or module:function of your own, which says what each has.
    config.grpo.credit = "none"
    # Responses that met a limit and are not trained on, for example ("over_turn", "over_long"): of operations and
    # images, of tokens.
    config.grpo.masks = ()
    # Dynamic sampling: more queries are asked, so many times queries_per_episode at most, until queries_per_episode
    # groups are not uniform; 1: off. An episode then reads more of the data, beyond the epochs if need be.
    config.grpo.sampling_rounds = 1
    # Of the policy: "clip", "dual_clip", "gspo" (its authors clip at 3e-4 and 4e-4, with sequence_mean), "cispo" (where
    # clip_low 1 is no lower bound), "preference" (DPO), or module:function of your own; see training/losses.py.
    config.grpo.loss = "clip"
    config.grpo.dual_clip = 3.0  # a token's loss is at most this times -A where its advantage A is negative
    # "token_mean", "sequence_mean" (every response weighs the same), "constant_length" (sums of tokens by a length, as
    # in Dr. GRPO), or module:function.
    config.grpo.aggregation = "token_mean"
    config.grpo.constant_length = 0  # tokens; 0: rollout.max_response_tokens
    # Weights of tokens by the ratio of the trainer's probability to the sampler's, for which each response is scored
    # once more: "tis" (at most the upper bound), "mis" (0 out of the bounds), "sequence_tis" and "sequence_mis" (the
    # same by the product of a response's ratios), "geometric" (a response whose geometric mean is out of the bounds
    # gets no gradient; take them near 1), "none", or module:function. "auto": "tis" with rollout.weights or
    # cache_dtype "int8", else "none".
    config.grpo.correction = "auto"
    config.grpo.correction_bounds = (0.5, 2.0)
    # The share of the tokens, those with the highest entropy, that the policy loss keeps; 1: all. One more pass.
    config.grpo.entropy_fraction = 1.0
    # Of the loss "preference": its beta, and of which pairs it is: "best_and_worst" of each query, or module:function.
    config.grpo.preference_beta = 0.1
    config.grpo.preference_pairs = "best_and_worst"
    # Functions of your own, as module:function, that give the tokens of an update other advantages, one after the
    # other; docs/rl.md. Each may look at passes.
    config.grpo.shaping = ()

    # Passes over an update's tokens, forward only, by labels of your own; one is made where a function asks for it
    # beside "old", "present" and "reference", which are always there to ask for. context: what the model is shown:
    # "as_asked", "masked" (each patch of the images black with the probability strength), "noisy" (with noise of a
    # deviation of strength, where 1 is from black to full), "text_only", or your own as module:function. policy: under
    # which it is: the "old" one that sampled, the "present" one, or the "reference" of model.directory. For example
    # ConfigDict(dict(context="masked", strength=0.5, policy="old")). entropy: as auxiliary.entropy, of a pass under the
    # present policy, whose tokens then have a gradient.
    config.passes = ConfigDict()

    config.auxiliary = ConfigDict()  # terms of the loss besides, with their coefficients; 0: none
    config.auxiliary.entropy = 0.0  # times the entropy, which it raises; a negative one lowers it
    # Times KL(policy || reference), the model of model.directory; with adapters that is the model without them, without
    # them a second one in memory. One more pass.
    config.auxiliary.kl = 0.0
    config.auxiliary.kl_estimator = "k2"  # "k1", "k2", "k3" or module:function; of ours k2 alone has KL's mean gradient
    config.auxiliary.nll = 0.0  # times the cross-entropy of right responses
    # Times |logprob - old| of the tokens with the largest covariance of log-probability and advantage. Two more passes,
    # one of them by the policy that sampled: `old` is the trainer's own, so that an episode's first update has none.
    config.auxiliary.kl_cov = 0.0
    config.auxiliary.kl_cov_fraction = 0.0002  # of the tokens
    # The share of the tokens that the policy loss leaves out, drawn out of those whose covariance is within the bounds
    # and which the clip has not taken already. 0: none. One more pass.
    config.auxiliary.clip_cov_fraction = 0.0
    config.auxiliary.clip_cov_bounds = (1.0, 5.0)
    # Terms of your own by labels of your own, such as ConfigDict(dict(function="my_terms:my_term", coefficient=0.01)):
    # loss + coefficient * the function's, which the metrics show as aux_<label>. See docs/rl.md.
    config.auxiliary.terms = ConfigDict()

    # Selective sample replay: an update that too few responses with an advantage are left for is filled with replayed
    # ones. "none", "paper", "release" (of VL-Rethinker: half as many updates, all of drawn responses), "pairs" (of each
    # query the best and the worst response, for the loss "preference"), or your own as module:function, see
    # training/replay.py.
    config.replay = ConfigDict()
    config.replay.method = "paper"
    config.replay.alpha = 1.0  # the paper's responses are drawn with probabilities as |advantage| to this power

    config.metrics = ConfigDict()
    # What gets the figures besides metrics.jsonl, with samples and alarms: "tensorboard", "wandb" (pip install
    # "pixel-reasoner-jax[wandb]"), or your own as module:Class, see docs/watching.md.
    config.metrics.trackers = ("tensorboard",)

    # Settings that change over the run's episodes: (key, "linear", first, last), "cosine" alike, or "steps" with values
    # for equal parts of the run; for example (("auxiliary.kl", "cosine", 0.04, 0.0),). See docs/rl.md.
    config.schedules = ()

    # What a run is measured by while it trains: docs/watching.md.
    config.evaluation = ConfigDict()
    # Benchmarks or one's own queries as NAME:PATH, like `evaluate --on`: ("data:data/held_out.jsonl", "vstar:DIR").
    config.evaluation.on = ()
    config.evaluation.every = 10  # episodes, and before the first and after the last one
    config.evaluation.queries = 256  # the most of each benchmark, evenly spread over it
    config.evaluation.samples = 1  # responses a query
    config.evaluation.temperature = 0.0
    # Which checkpoint is the best, and is kept: the greatest or the smallest of a metric such as "data/score"; None:
    # the first benchmark's score. "auto": the smallest loss, failure_rate or tokens, else the greatest.
    config.evaluation.metric = config_dict.placeholder(str)
    config.evaluation.best = "auto"
    config.evaluation.patience = 0  # the run ends when so many in a row were not the best; 0: it does not
    config.evaluation.warn_share = 0.25  # of the time, above which a warning says what evaluations take
    return config
