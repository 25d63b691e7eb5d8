"""Trains a small byte-level BPE tokenizer with Qwen2.5-VL's special tokens, saved in the Hugging Face form.

It is for models too small for the real vocabulary. Any text can be encoded. The training text becomes very short,
because merges may cross words and lines: a sentence that never varies becomes one token, which keeps a long tool
description affordable for a small model on a CPU. Only numbers (with the comma before them, so that the four
coordinates of a box are four tokens) and the start of a box never merge with their neighbours.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import Budgets
from pixel_reasoner_jax.processing.geometry import TOKEN_SIZE

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)

CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of Qwen2.5-VL."""

# What never merges with its neighbours: the header of a message, the start of a box, a number with its separator.
_PIECES = r'\A(?:system|user|assistant)\n|"bbox_2d": \[|(?:, )?\d+(?:\.\d+)?'
_ADDED = re.compile("|".join(map(re.escape, SPECIAL_TOKENS + PLAIN_TOKENS)))


def conversation_texts(messages: list[dict[str, Any]]) -> list[str]:
    """The texts of a conversation as the tokenizer is given them: the stretches between special tokens."""
    texts = ["\n"]
    for message in messages:
        content = message["content"]
        items = [{"text": content}] if isinstance(content, str) else content
        text = "".join(item.get("text", "<|image_pad|>") for item in items)
        texts += _ADDED.split(f"{message['role']}\n{text}")
    return [text for text in texts if text]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learns merges until nothing in `texts` is left to merge, or the vocabulary is full.

    Args:
      texts: as `conversation_texts` gives them; more frequent pairs are merged first.
      vocabulary: the most tokens, added ones included.

    Raises:
      UserError: the vocabulary is too small for 256 bytes and the added tokens.
    """
    added = len(SPECIAL_TOKENS) + len(PLAIN_TOKENS)
    if vocabulary < 256 + added:
        raise UserError(f"a vocabulary of {vocabulary} cannot hold 256 bytes and {added} added tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - added,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        clean_up_tokenization_spaces=False,
        model_max_length=131_072,
        chat_template=CHAT_TEMPLATE,
    )


def save_processor(tokenizer: PreTrainedTokenizerFast, directory: str | Path, budgets: Budgets) -> None:
    """Writes the files of a processor, all but the model's config.json.

    Args:
      tokenizer: from `train_tokenizer`.
      directory: created if missing.
      budgets: tokens for every kind of image.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    least, most = (TOKEN_SIZE**2 * tokens for tokens in budgets.image)
    preprocessor = {
        "min_pixels": least,
        "max_pixels": most,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "budgets": dataclasses.asdict(budgets),
        "position_rule": "released",
    }
    for name, value in (
        ("preprocessor_config.json", preprocessor),
        ("chat_template.json", {"chat_template": CHAT_TEMPLATE}),
    ):
        (directory / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
