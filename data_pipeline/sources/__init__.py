"""Where seeds come from. A source is a sequence: `len(source)` and `source[index]`, which gives a `Seed`.

An entry from which no seed can be made raises a `SourceError` that names the file and the entry; the others are not
harmed by it. A source is read from any thread.
"""

from __future__ import annotations

import importlib

from data_pipeline.sources.base import Source, SourceError

__all__ = ["KINDS", "Source", "SourceError", "open_source"]

KINDS = {
    "jsonl": ("data_pipeline.sources.jsonl", "JsonLines", "FILE.jsonl: one annotated query a line"),
    "masks": ("data_pipeline.sources.masks", "MaskedImages", "FOLDER of SA-1B: images with JSON files of masks"),
    "web": ("data_pipeline.sources.web", "WebPages", "FILE.jsonl: screenshots with answer boxes"),
    "star": ("data_pipeline.sources.star", "VideoWindows", "FILE.json of STAR: questions with answer windows"),
    "ocr": ("data_pipeline.sources.ocr", "ReadableImages", "FOLDER of TextVQA or InfographicsVQA, with OCR boxes"),
    "tfds": ("data_pipeline.sources.tfds", "BoxedDataset", "FILE.json: any TFDS data set with boxes, and a field map"),
    "pixel-search": ("data_pipeline.sources.pixel_search", "endless", "SPLIT of the procedural world of images"),
    "pixel-search-video": ("data_pipeline.sources.pixel_search_video", "endless", "SPLIT of the world of videos"),
}
"""For every kind: its module, what makes a source of a path, and what the path is."""


def open_source(spec: str) -> Source:
    """A source by its kind and path, as "jsonl:data/seeds.jsonl".

    Raises:
      SourceError: no such kind, or what the path names cannot be read as one.
    """
    kind, _, path = spec.partition(":")
    if kind not in KINDS or not path:
        raise SourceError(f"a source is KIND:PATH with KIND one of {', '.join(KINDS)}; got {spec!r}")
    module, name, _ = KINDS[kind]
    return getattr(importlib.import_module(module), name)(path)
