"""A tiny Qwen2.5-VL of random parameters: in place of a checkpoint that you would download.

    python examples/small_model.py FOLDER/train.jsonl MODEL

trains a tokenizer on the words of trajectories about a table's photos, so that a conversation takes a few dozen tokens,
and writes what every command takes as a model's folder: weights, processor, and how the model is asked.
"""

import itertools
import pathlib
import re
import sys

from data_pipeline.sources import open_source
from data_pipeline.synthesis import BudgetMediaLoader, Synthesizer, TemplateCaptioner
from data_pipeline.tokenizer import conversation_texts, save_processor, train_tokenizer
from pixel_reasoner_jax.commands.quickstart import random_model
from pixel_reasoner_jax.processing import Budgets
from pixel_reasoner_jax.rollout.dialogue import Limits
from pixel_reasoner_jax.rollout.settings import FILE, PolicySettings

# Tokens of 28x28 pixels: a photo is shown at 112x112, and so is a crop.
BUDGETS = Budgets(image=(16, 16), crop=(16, 20), frame=(16, 20), video=(4, 8), video_frames=8)
LIMITS = Limits(max_operations=2, max_images=3, max_response_tokens=160, max_length=320)
SENTENCE = re.compile(r"(?<=[.:?!])(?=\s)")
VOCABULARY = 2048


def make(model, conversations, settings):
    """Writes a model that knows the words of some conversations, and is asked by these `PolicySettings`."""
    texts = itertools.chain.from_iterable(map(conversation_texts, conversations))
    # What never varies becomes one token. What the model writes is learnt by sentences, or each pair would be a token.
    parts = (part for text in texts for part in (SENTENCE.split(text) if text.startswith("assistant") else [text]))
    tokenizer = train_tokenizer(parts, VOCABULARY)
    save_processor(tokenizer, model, BUDGETS)
    random_model(tokenizer).save_pretrained(model)
    settings.save(model)


def main(table, model):
    if (model / FILE).exists():  # written last
        return
    settings = PolicySettings(limits=LIMITS)
    write = Synthesizer(settings.registry(), BudgetMediaLoader(BUDGETS), TemplateCaptioner())
    make(model, [write(seed).messages for seed in itertools.islice(open_source(f"table:{table}"), 256)], settings)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
