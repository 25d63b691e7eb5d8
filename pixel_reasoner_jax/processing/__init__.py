"""Turns text and media into arrays with numpy and PIL: loading, patches, window layout, positions, chat, batches."""

from pixel_reasoner_jax.processing.chat import Rendered, SpecialTokens
from pixel_reasoner_jax.processing.geometry import Budgets, Geometry, smart_resize
from pixel_reasoner_jax.processing.layout import grid_patches, layout_rows, vision_layout
from pixel_reasoner_jax.processing.loading import load_image, load_video
from pixel_reasoner_jax.processing.media import Media
from pixel_reasoner_jax.processing.pictures import Picture, PictureStore
from pixel_reasoner_jax.processing.positions import mrope_positions
from pixel_reasoner_jax.processing.processor import Processor
from pixel_reasoner_jax.processing.sources import MediaError
from pixel_reasoner_jax.processing.videos import Clip, Video

__all__ = [
    "Budgets",
    "Clip",
    "Geometry",
    "Media",
    "MediaError",
    "Picture",
    "PictureStore",
    "Processor",
    "Rendered",
    "SpecialTokens",
    "Video",
    "grid_patches",
    "layout_rows",
    "load_image",
    "load_video",
    "mrope_positions",
    "smart_resize",
    "vision_layout",
]
