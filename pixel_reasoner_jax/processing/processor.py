"""The processor: turns conversations with images and videos into the arrays that the model takes."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import transformers
from PIL import Image

from pixel_reasoner_jax.config_values import EARLIER_POSITION_RULE
from pixel_reasoner_jax.errors import MissingModelError, UserError, shown
from pixel_reasoner_jax.files import as_path, output_directory
from pixel_reasoner_jax.model_files import find_file, model_directory, read_json
from pixel_reasoner_jax.processing.chat import DEFAULT_SYSTEM, ChatRenderer, Message, Rendered, content_items
from pixel_reasoner_jax.processing.geometry import Budgets, Geometry, smart_resize
from pixel_reasoner_jax.processing.items import MAX_VIDEO_TOKENS, ItemSizes, media_source
from pixel_reasoner_jax.processing.layout import vision_layout
from pixel_reasoner_jax.processing.loading import ImageSource, load_image, load_video
from pixel_reasoner_jax.processing.media import Media, normalization_table, process_image, process_video
from pixel_reasoner_jax.processing.pictures import Picture
from pixel_reasoner_jax.processing.positions import check_rule, mrope_positions
from pixel_reasoner_jax.processing.preprocessor import PreprocessorFiles, preprocessor_files
from pixel_reasoner_jax.processing.sources import MediaError, describe
from pixel_reasoner_jax.processing.tokenizer_files import read_tokenizer
from pixel_reasoner_jax.processing.videos import Video

Conversation = Sequence[Message]

GENERATION_FILE = "generation_config.json"
MAX_POSITION = 2**24
"""A video that lasts longer than so many positions is refused: rotary angles, in float32, would no longer be exact."""


class Processor:
    """Turns conversations into the model's arrays: loads media, renders tokens, computes positions, makes batches.

    Args:
      tokenizer: a fast transformers tokenizer with Qwen's special tokens.
      config: the model's config.json.
      preprocessor: preprocessor_config.json; `image_mean` and `image_std` are read from it.
      budgets: tokens for every kind of image.
      position_rule: where positions go on after a video, "released" or "transformers"; see `mrope_positions`.
      video_preprocessor: video_preprocessor_config.json, which is saved again.
      generation: generation_config.json, how others sample from the model, which is saved again.

    Attributes:
      tokenizer, config, preprocessor, budgets, position_rule, video_preprocessor, generation: as given.
      geometry: patch, merge and window sizes, from `config`.
      ids: `SpecialTokens`; each of them is an attribute of the processor too (`processor.im_end`).
    """

    def __init__(
        self,
        tokenizer: transformers.PreTrainedTokenizerBase,
        config: Mapping[str, Any],
        preprocessor: Mapping[str, Any],
        budgets: Budgets | None = None,
        position_rule: str = "released",
        video_preprocessor: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
    ):
        check_rule(position_rule)
        self.tokenizer = tokenizer
        self.config, self.preprocessor = dict(config), dict(preprocessor)
        self.video_preprocessor, self.generation = dict(video_preprocessor or {}), dict(generation or {})
        self.geometry = Geometry.from_config(config)
        self.budgets = budgets or Budgets()
        self.position_rule = position_rule
        self._check_preprocessor()
        self._normalization = normalization_table(preprocessor["image_mean"], preprocessor["image_std"])
        self._renderer = ChatRenderer(tokenizer.backend_tokenizer)
        self.ids = self._renderer.ids
        self.im_start, self.im_end, self.endoftext = self.ids.im_start, self.ids.im_end, self.ids.endoftext
        self.image_pad, self.video_pad = self.ids.image_pad, self.ids.video_pad
        self.vision_start, self.vision_end = self.ids.vision_start, self.ids.vision_end
        self.placeholder_tokens = (self.image_pad, self.video_pad)
        self.stop_tokens = (self.im_end, self.endoftext)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | pathlib.Path,
        budgets: Budgets | Mapping[str, Any] | None = None,
        frames: int | None = None,
        position_rule: str | None = None,
    ) -> Processor:
        """Reads a checkpoint directory of Hugging Face or of ours: tokenizer, config.json, preprocessor_config.json.

        Args:
          directory: here or in an object store; nothing else is downloaded. What an adapter's lacks, its model's has.
          budgets: tokens for every kind of image. What is None, or None in a mapping from the names of budgets, is as
            the checkpoint's files say (`PreprocessorFiles.budgets`).
          frames: frames taken from a query video, in place of what the budgets say.
          position_rule: where positions go on after a video. None takes what was saved with the processor;
            "transformers" for one of ours that was saved before this was a setting, and "released" for a checkpoint of
            Hugging Face.

        Raises:
          MissingFileError: a file is missing; the message names it.
          UserError: a file does not fit the others; the message says which entry.
        """
        directory = model_directory(directory)
        file = find_file(directory, "config.json")
        if file is None:
            raise MissingModelError(f"{directory / 'config.json'}: no such file; a checkpoint directory has one")
        config, files = read_json(file), PreprocessorFiles.read(directory)
        if not isinstance(budgets, Budgets):
            budgets = files.budgets(Geometry.from_config(config).token_size).replaced(budgets or {})
        if frames is not None:
            budgets = dataclasses.replace(budgets, video_frames=frames)
        if position_rule is None:
            earlier = EARLIER_POSITION_RULE if "budgets" in files.image else "released"
            position_rule = files.image.get("position_rule", earlier)
        generation = find_file(directory, GENERATION_FILE)
        return cls(
            read_tokenizer(directory),
            config,
            files.image,
            budgets,
            position_rule,
            video_preprocessor=files.video,
            generation=generation and read_json(generation),
        )

    def save_pretrained(self, directory: str | pathlib.Path) -> None:
        """Writes the files that `from_pretrained` and transformers' AutoProcessor and AutoConfig read.

        An existing config.json is left as it is: the model has written it.
        """
        directory = as_path(directory)
        with output_directory(directory) as local:
            self.tokenizer.save_pretrained(local)
        files = preprocessor_files(
            self.preprocessor, self.video_preprocessor, self.geometry, self.budgets, self.position_rule
        )
        ends = {"eos_token_id": [*self.stop_tokens], "bos_token_id": self.endoftext, "pad_token_id": self.endoftext}
        files[GENERATION_FILE] = self.generation or ends
        if not (directory / "config.json").exists():
            files["config.json"] = self.config
        for name, content in files.items():
            (directory / name).write_text(json.dumps(content, indent=2) + "\n")

    @functools.cached_property
    def forbidden_tokens(self) -> np.ndarray:
        """Ids that are never sampled, int32 [n], ascending: vision tokens, and ids that no token has."""
        size = self._vocabulary_size
        unused = np.ones(size, bool)
        unused[list(self.tokenizer.get_vocab().values())] = False
        ids = self.ids
        unused[[ids.image_pad, ids.video_pad, ids.vision_start, ids.vision_end, ids.vision_pad]] = True
        return np.flatnonzero(unused).astype(np.int32)

    def resized(self, size: tuple[int, int], kind: str = "image") -> tuple[int, int]:
        """The (width, height) that an image of `size` (width, height) is resized to; kind: see `Budgets`.

        Raises:
          UserError: the image is longer than 200 times its width.
        """
        return smart_resize(size, self.budgets.of(kind), self.geometry.token_size)

    def load_image(self, source: ImageSource) -> Image.Image:
        """Reads an image as RGB; see `loading.load_image`."""
        return load_image(source)

    def load_video(self, source: Any, fps: float | None = None, frames: int | None = None) -> Video:
        """Samples a file, its bytes or a list of frames as the budgets say, or `frames`; see `loading.load_video`."""
        rate = 0.0 if frames else self.budgets.video_rate
        return load_video(media_source(source), frames or self.budgets.video_frames, fps, rate)

    def image(self, source: Any, kind: str = "image", sizes: ItemSizes = ItemSizes()) -> Media:  # noqa: B008  frozen
        """Loads and resizes an image and splits it into patches; a `Media` is returned as it is.

        Args:
          source: a path, bytes, a PIL image, whatever else `media_source` reads, a `Media`, or a `Picture`, which is
            processed only when its pixels are used.
          kind: "image", "crop" or "frame": which budget of tokens.
          sizes: what goes before the budget.

        Raises:
          MediaError: it cannot be read, or is longer than 200 times its width.
        """
        if isinstance(source, Media):
            return source
        image = source if isinstance(source, Picture) else load_image(media_source(source))
        size = self._size_of(image, kind, source, sizes)
        return process_image(image, size, self.geometry, self._normalization)

    def video(self, source: Any, fps: float | None = None, sizes: ItemSizes = ItemSizes()) -> Media:  # noqa: B008
        """Samples and resizes a video and splits it into patches; a `Media` is returned as it is.

        Args:
          source: a file, its bytes, a list of frames, whatever else `media_source` reads, a loaded `Video` (one of
            pictures is processed only when its pixels are used) or a `Media`.
          fps: for a list, the number of its frames in a second; for a file, the frames to take in a second of it.
          sizes: what goes before the budget.

        Raises:
          MediaError: it cannot be read, is longer than 200 times its width, or lasts longer than `MAX_POSITION`.
        """
        if isinstance(source, Media):
            return source
        video = self.load_video(source, fps, sizes.frames)
        size = self._size_of(video.frames[0], "video", video.frames[0] if video is source else source, sizes)
        self._check_length(len(video.frames), size, sizes)
        media = process_video(video.frames, video.fps, size, self.geometry, self._normalization)
        with np.errstate(over="ignore", invalid="ignore"):
            interval = np.float32(media.second_per_grid) * np.float32(self.geometry.tokens_per_second)
            lasts = (media.grid[0] - 1) * interval
        if not lasts <= MAX_POSITION:  # nor is it where an interval is infinite
            raise MediaError(
                f"a video of {len(video.frames)} frames, {video.fps:.3g} a second, lasts longer than positions can"
                " count: give its true fps"
            )
        return media

    def render(self, messages: Conversation, *, start: int = 0, generation_prompt: bool = False) -> Rendered:
        """Renders a conversation, or the part of one that begins at message `start`.

        Append-only: the tokens of `messages[:k]` are a prefix of those of `messages`. A conversation that begins
        without a system message gets that of the template.

        Args:
          messages: see `ChatRenderer`; images and videos in any form that `image` and `video` take, and beside them
            what `ItemSizes` reads.
          start: index of the first of `messages` in its conversation.
          generation_prompt: open an assistant turn at the end.
        """
        pieces = []
        if start == 0 and messages and messages[0].get("role") != "system":
            pieces.append(self.render_message({"role": "system", "content": DEFAULT_SYSTEM}))
        pieces += [self.render_message(message, start + number) for number, message in enumerate(messages)]
        if generation_prompt:
            pieces.append(self.generation_prompt())
        return _join(pieces)

    def render_message(self, message: Message, number: int = 0) -> Rendered:
        """Renders one message, its closing newline included; `number` names it in errors."""
        place = f"message {number}"
        media = [
            self._media(kind, item, f"{place}, item {index}")
            for index, (kind, item) in enumerate(content_items(message, place))
            if kind != "text"
        ]
        return self._renderer.message(message, media, place)

    def encode(self, text: str) -> np.ndarray:
        """The tokens of plain text, int32 [n]; it cannot make special tokens."""
        return np.asarray(self._renderer.text(text), np.int32)

    def generation_prompt(self) -> Rendered:
        """Renders the opening of an assistant turn, which sampling continues."""
        return _untrained(self._renderer.generation_prompt())

    def render_continuation(self, message: Message, closed: bool = True) -> Rendered:
        """Renders what follows a sampled turn: "\\n", a message, and the opening of the next assistant turn.

        Args:
          message: see `ChatRenderer`.
          closed: whether the sampled turn ended with `<|im_end|>`; otherwise this token is added first.
        """
        between = self._renderer.text("\n")
        if not closed:
            between = np.concatenate([np.array([self.im_end], between.dtype), between])
        return _join([_untrained(between), self.render_message(message), self.generation_prompt()])

    def positions(self, tokens: np.ndarray, media: Sequence[Media], start: int = 0) -> tuple[np.ndarray, int]:
        """M-RoPE positions of a piece of a conversation, int32 [3, n], and the position at which the next starts."""
        return mrope_positions(tokens, media, self.placeholder_tokens, self.geometry, start, self.position_rule)

    def batch(
        self,
        sequences: Sequence[Rendered | tuple[np.ndarray, Sequence[Media]]],
        length: int | None = None,
        row_patches: int | None = None,
        rows: int | None = None,
    ) -> dict[str, Any]:
        """Makes a batch of the model's arrays: one sequence a row, padded on the right.

        Args:
          sequences: rendered conversations, or (tokens, media) pairs.
          length: L, tokens of a row; None: those of the longest sequence.
          row_patches, rows: sizes of the vision input; see `vision_layout`.

        Returns:
          `tokens` int32 [B, L], `positions` int32 [3, B, L], `segment_ids` int32 [B, L] (1, and 0 for padding),
          `vision_index` int32 [B, L] (the merged vision token that replaces the token's embedding, -1 for text) and
          `vision`, the dict of `vision_layout` or None.

        Raises:
          UserError: a sequence is longer than `length`, or its placeholders do not match its media.
          ValueError: the media do not fit into `rows` rows of `row_patches`.
        """
        pairs = [(item.tokens, item.media) if isinstance(item, Rendered) else item for item in sequences]
        longest = max((len(tokens) for tokens, _ in pairs), default=0)
        length = longest if length is None else length
        if longest > length:
            raise UserError(f"a sequence of {longest} tokens does not fit in the batch's length of {length}")
        all_media = [item for _, media in pairs for item in media]
        vision, merged_tokens = vision_layout(all_media, self.geometry, row_patches, rows)
        remaining = iter(merged_tokens)
        shape = (len(pairs), length)
        batch = {
            "tokens": np.full(shape, self.endoftext, np.int32),
            "positions": np.zeros((3, *shape), np.int32),
            "segment_ids": np.zeros(shape, np.int32),
            "vision_index": np.full(shape, -1, np.int32),
            "vision": vision,
        }
        for row, (tokens, media) in enumerate(pairs):
            count = len(tokens)
            batch["tokens"][row, :count] = tokens
            batch["positions"][:, row, :count] = self.positions(tokens, media)[0]
            batch["segment_ids"][row, :count] = 1
            if media:
                is_placeholder = np.isin(tokens, self.placeholder_tokens)
                batch["vision_index"][row, :count][is_placeholder] = np.concatenate([next(remaining) for _ in media])
        return batch

    def __call__(self, conversations: Sequence[Conversation]) -> dict[str, Any]:
        """Renders conversations and makes a batch of them.

        Raises:
          UserError: one of them is not a list of messages, as when a single conversation is given.
        """
        for number, messages in enumerate(conversations):
            if isinstance(messages, Mapping | str):
                raise UserError(
                    f"conversation {number} is not a list of messages but {shown(messages)}; a single conversation is"
                    " given as processor([conversation])"
                )
        return self.batch([self.render(messages) for messages in conversations])

    def _media(self, kind: str, item: Mapping[str, Any], place: str) -> Media:
        source = item[kind]
        if isinstance(source, Media):
            media = source
        else:
            try:
                sizes = ItemSizes.of(kind, item, self.geometry.token_size)
            except UserError as error:
                raise UserError(f"{place}: {error}") from None
            if kind == "image":
                media = self.image(source, item.get("kind") or "image", sizes)
            else:
                media = self.video(source, sizes.fps, sizes)
        if media.kind != kind:
            raise UserError(f"{place}: a processed {media.kind} is given as {kind}")
        return media

    def _check_length(self, frames: int, size: tuple[int, int], sizes: ItemSizes) -> None:
        """Checks that a video whose item asks for frames or sizes is not longer than any model reads."""
        steps = -(-frames // self.geometry.temporal_patch_size)
        tokens = steps * size[0] * size[1] // self.geometry.token_size**2
        if sizes != ItemSizes(fps=sizes.fps) and tokens > MAX_VIDEO_TOKENS:
            raise MediaError(
                f"{frames} frames of {size[0]}x{size[1]} pixels take {tokens:,} tokens, more than {MAX_VIDEO_TOKENS:,}:"
                " nframes and the pixels ask for too much together"
            )

    def _size_of(self, image: Image.Image | Picture, kind: str, source: Any, sizes: ItemSizes) -> tuple[int, int]:
        budget = self.budgets.of(kind)
        try:
            return sizes.size(image.size, budget, self.geometry.token_size)
        except ValueError as error:
            raise MediaError(f"{describe(source)}: {error}") from None

    @property
    def _vocabulary_size(self) -> int:
        """Rows of the model's embedding; often there are more than the tokenizer has tokens."""
        used = max(self.tokenizer.get_vocab().values()) + 1
        text = self.config.get("text_config") or self.config
        size = (text.get("vocab_size") if isinstance(text, Mapping) else None) or self.config.get("vocab_size") or used
        if not isinstance(size, int) or size < used:
            raise UserError(
                f"config.json has vocab_size {shown(size)}, and the tokenizer's largest id is {used - 1}: they are of"
                " different models, or tokens were added without resizing the embeddings"
            )
        return size

    def _check_preprocessor(self) -> None:
        """Checks that the preprocessor's sizes equal the model's: otherwise results would be bad without an error."""
        for name in ("patch_size", "temporal_patch_size", "merge_size"):
            given, needed = self.preprocessor.get(name), getattr(self.geometry, name)
            if given is not None and given != needed:
                raise UserError(f"preprocessor_config.json has {name} {given}; the model's config.json has {needed}")
        for name in ("image_mean", "image_std"):
            given = self.preprocessor.get(name)
            numbers = given if isinstance(given, list | tuple) else ()
            if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
                raise UserError(f"preprocessor_config.json needs {name}, three numbers")


def _join(pieces: Sequence[Rendered]) -> Rendered:
    if not pieces:
        return _untrained(np.empty(0, np.int32))
    return Rendered(
        np.concatenate([piece.tokens for piece in pieces]),
        np.concatenate([piece.train for piece in pieces]),
        [item for piece in pieces for item in piece.media],
    )


def _untrained(tokens: np.ndarray) -> Rendered:
    return Rendered(tokens, np.zeros(len(tokens), bool), [])
