"""Where seeds come from. A source is a sequence: `len(source)` and `source[index]`, which gives a `Seed`.

An entry that gives no seed raises a `SourceError` that names the file and the entry; the other entries are not
affected. A source may be read from any thread.
"""

from __future__ import annotations

import importlib

from data_pipeline.sources.base import SeedSource, SourceError
from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.named_parts import find_part

__all__ = ["SOURCE_KINDS", "SeedSource", "SourceError", "open_source"]

SOURCE_KINDS = {
    "table": ("data_pipeline.sources.table", "TableSeeds"),
    "masks": ("data_pipeline.sources.masks", "MaskedImages"),
    "web": ("data_pipeline.sources.web", "WebPages"),
    "star": ("data_pipeline.sources.star", "VideoWindows"),
    "ocr": ("data_pipeline.sources.ocr", "ReadableImages"),
    "tfds": ("data_pipeline.sources.tfds", "BoxedDataset"),
    "pixel-search": ("data_pipeline.sources.pixel_search", "endless"),
    "pixel-search-video": ("data_pipeline.sources.pixel_search_video", "endless"),
}
"""For every kind of source: its module, and the class or function there that opens a path."""


def open_source(spec: str) -> SeedSource:
    """Opens a source by its kind and path, as "table:data/seeds.jsonl", or one's own as "module:name:path".

    Raises:
      SourceError: there is no such kind, or the path cannot be read as that kind.
      UserError: there is no such part of one's own, or it makes no sequence.
    """
    kind, _, path = spec.partition(":")
    if kind not in SOURCE_KINDS:
        name, _, own_path = path.partition(":")
        if not (kind and name and own_path):
            kinds = ", ".join(SOURCE_KINDS)
            raise SourceError(f"a source is KIND:PATH with KIND one of {kinds}, or module:name:PATH; got {spec!r}")
        make = find_part(f"{kind}:{name}", {}, "source")
        try:
            source = make(own_path)
        except (TypeError, AttributeError) as error:
            raise SourceError(f"source {spec!r}: {kind}:{name} must be made of a path: {error}") from error
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise SourceError(f"source {spec!r} makes {shown(source)}: it must be a sequence of seeds")
        return source
    if not path:
        raise SourceError(f"the source {spec!r} has no path: write {kind}:PATH")
    module, name = SOURCE_KINDS[kind]
    return getattr(importlib.import_module(module), name)(path)
