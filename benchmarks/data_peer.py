"""The same trajectories through transformers' image processor and tokenizer in a torch DataLoader.

It reads the table that `export-data` writes, with its folder of media, as users of PyTorch do.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pixel_reasoner_jax.processing import Processor

TOKEN = 28 * 28  # pixels of a token


class Table(torch.utils.data.Dataset):
    """Rows of a table as `input_ids`, `labels_mask` and `pixel_values`.

    Args:
      table: .jsonl, as `export-data` writes it.
      processor: whose tokenizer and budgets are used.
    """

    def __init__(self, table: pathlib.Path, processor: Processor):
        self._folder = table.parent
        self._rows = [json.loads(line) for line in table.read_text().splitlines()]
        self._tokenizer: transformers.PreTrainedTokenizerBase = processor.tokenizer
        self._assistant = np.array([processor.im_start, *self._tokenizer.encode("assistant\n")])
        self._end = processor.im_end
        self._images = {
            kind: Qwen2VLImageProcessorPil(
                size={"shortest_edge": least * TOKEN, "longest_edge": most * TOKEN},
                image_mean=processor.preprocessor["image_mean"],
                image_std=processor.preprocessor["image_std"],
            )
            for kind, (least, most) in ((kind, processor.budgets.of(kind)) for kind in ("image", "crop", "frame"))
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        text, pixels = [], []
        for message in self._rows[index]["message_list"]:
            text.append(f"<|im_start|>{message['role']}\n")
            for item in message["content"]:
                if item["type"] == "text":
                    text.append(item["text"])
                    continue
                image = Image.open(self._folder / item["image"]).convert("RGB")
                out = self._images[item["kind"] or "image"](images=[image], return_tensors="np")
                pixels.append(out["pixel_values"])
                pads = int(np.prod(out["image_grid_thw"][0])) // 4
                text.append(f"<|vision_start|>{'<|image_pad|>' * pads}<|vision_end|>")
            text.append("<|im_end|>\n")
        tokens = np.array(self._tokenizer("".join(text))["input_ids"])
        return {
            "qid": self._rows[index]["qid"],
            "input_ids": torch.from_numpy(tokens),
            "labels_mask": torch.from_numpy(self._mask(tokens)),
            "pixel_values": [torch.from_numpy(np.asarray(array)) for array in pixels],
        }

    def _mask(self, tokens: np.ndarray) -> np.ndarray:
        """What the assistant wrote, its end of turn included."""
        mask, width = np.zeros(len(tokens), bool), len(self._assistant)
        for start in np.flatnonzero(tokens == self._assistant[0]):
            if np.array_equal(tokens[start : start + width], self._assistant):
                end = start + int(np.argmax(tokens[start:] == self._end)) + 1
                mask[start + width : end] = True
        return mask


def batches(table: Table, batch_size: int, workers: int) -> Iterator[list[dict[str, Any]]]:
    """Shuffled batches without end, from so many processes."""
    loader = torch.utils.data.DataLoader(
        table,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a fork of a process with JAX's threads can hang
        prefetch_factor=2,
    )
    while True:
        yield from loader
