"""The text whose keys and values say how large those of any may be, for a KV cache of int8."""

from __future__ import annotations

import numpy as np

from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.rollout.prompt import GUIDELINES, query_messages

QUESTION = """What is the number on the small sign behind the red car, and is it larger than 17.5 km? Choose one of:
(A) Yes, it is 42
(B) No
Let me look closer: {"name": "crop_image", "arguments": {"bbox_2d": [120, 48, 364, 512], "target_image": 1}}
Wait, 这是什么? x = [0.25, 0.5], so y = 12 + 3 * (x - 4)^2 = 42%. "Nothing" -- the sign's *left* half is hidden..."""


def scale_text(processor: Processor) -> np.ndarray:
    """Token ids, int32 [tokens]: a prompt as most begin, whose question has something of many kinds.

    It is the same whatever a policy is asked, and which operations it has.
    """
    return processor.render(query_messages({"question": QUESTION}, None, GUIDELINES), generation_prompt=True).tokens
