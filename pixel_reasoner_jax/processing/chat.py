"""Renders conversations as tokens: one append-only renderer for training, rollouts, evaluation and reports.

It renders what Qwen2.5-VL's chat template renders, `<|im_start|>role\\n...<|im_end|>\\n` for every message, and encodes
it so that no text can forge structure. The template's special tokens are inserted by id. All text, whatever its origin,
is encoded with special tokens split: a question, a data set or an error message that contains `<|image_pad|>` or
`<|im_end|>` gives the ordinary tokens of those characters, never the placeholder or the end of a turn. Added tokens
that are not special, `<tool_call>` and `</tool_call>` in Qwen's tokenizer, are encoded by their id wherever they
occur, as in the template: the system message describes them, the assistant writes them, and elsewhere they have no
effect, because operations are read from assistant turns alone.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from pixel_reasoner_jax.errors import UserError, shown
from pixel_reasoner_jax.processing.items import SOURCE_KEYS
from pixel_reasoner_jax.processing.media import Media

DEFAULT_SYSTEM = "You are a helpful assistant."
"""The system message of a conversation that begins without one, as in the template."""

CACHED_TEXT = 8192  # characters of a text whose tokens are kept

ROLES = ("system", "user", "assistant")

Message = Mapping[str, Any]


class SpecialTokens(NamedTuple):
    """Ids of the tokens that give a conversation its structure."""

    im_start: int
    im_end: int
    endoftext: int
    image_pad: int
    video_pad: int
    vision_start: int
    vision_end: int
    vision_pad: int

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> SpecialTokens:
        """Looks up the ids in a tokenizer.

        Raises:
          UserError: the tokenizer lacks one of the tokens; the message names it.
        """
        ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in cls._fields}
        missing = [f"<|{name}|>" for name, token in ids.items() if token is None]
        if missing:
            raise UserError(f"the tokenizer lacks {', '.join(missing)}; Qwen2.5-VL's tokenizers have all of them")
        return cls(**ids)


@dataclasses.dataclass(frozen=True, eq=False)
class Rendered:
    """A rendered piece of a conversation.

    Attributes:
      tokens: int32 [n].
      train: bool [n], whether the loss covers the token.
      media: the images and videos whose placeholders are in `tokens`, in order.
    """

    tokens: np.ndarray
    train: np.ndarray
    media: list[Media]


def _check_ids(tokenizer: tokenizers.Tokenizer) -> None:
    """Refuses a vocabulary in which two tokens have one id: whatever copies it keeps either, and a text could
    produce a special token."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    tokens = {number: token for token, number in vocabulary.items()}
    for token, number in vocabulary.items() if len(tokens) < len(vocabulary) else ():
        if tokens[number] != token:
            both = " and ".join(map(shown, sorted([tokens[number], token])))
            raise UserError(f"the tokenizer is damaged ({both} have the id {number}): get its files again")


class ChatRenderer:
    """Turns messages into tokens.

    A message is a mapping of `role` and `content`. The content is a string or a list of items, each with `text` (and an
    optional `train`, by default true for the assistant and false for others), `image` or `video`; see `content_items`.

    Args:
      tokenizer: a `tokenizers.Tokenizer` with Qwen's special tokens; it is copied.

    Raises:
      UserError: a special token is missing, or plain text can produce it; or the vocabulary is damaged.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        _check_ids(tokenizer)
        # A copy: transformers switches `encode_special_tokens` of the one it holds back and forth.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Offsets must cover every character: if they were trimmed, a leading space would belong to no token.
        self._tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
        self.ids = SpecialTokens.of(self._tokenizer)
        self._encode_cached = functools.lru_cache(maxsize=4096)(self._encode_uncached)
        forged = set(self._encode("".join(f"<|{name}|>" for name in self.ids._fields))[0].tolist()) & set(self.ids)
        if forged:
            raise UserError(
                f"plain text produces the tokens {[self._tokenizer.id_to_token(token) for token in sorted(forged)]};"
                " the tokenizer must mark them as special"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"tokenizer": self._tokenizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["tokenizer"])

    def message(self, message: Message, media: Sequence[Media], place: str = "message") -> Rendered:
        """Renders one message, its closing newline included.

        Args:
          message: see the class.
          media: its processed images and videos, in order.
          place: names the message in errors.

        Raises:
          UserError: an unknown role, or content of another form.
        """
        role = message.get("role")
        if role not in ROLES:
            raise UserError(f"{place}: role is {shown(role)}; it is one of {', '.join(ROLES)}")
        writer = _Writer(self._encode)
        writer.special(self.ids.im_start)
        writer.text(f"{role}\n", False)
        remaining = iter(media)
        train = default = role == "assistant"
        for kind, item in content_items(message, place):
            if kind == "text":
                train = default if item.get("train") is None else bool(item["train"])
                writer.text(item["text"], train)
            else:
                train = False
                writer.special(self.ids.vision_start)
                pad = self.ids.image_pad if kind == "image" else self.ids.video_pad
                writer.special(pad, next(remaining).tokens)
                writer.special(self.ids.vision_end)
        writer.special(self.ids.im_end, train=train and role == "assistant")
        writer.text("\n", False)
        tokens, mask = writer.finish()
        return Rendered(tokens, mask, list(media))

    def text(self, text: str) -> np.ndarray:
        """The tokens of a text alone, int32 [n], none of them special."""
        return self._encode(text)[0]

    def generation_prompt(self) -> np.ndarray:
        """The tokens that open an assistant turn, int32 [n]; sampling continues them."""
        return np.concatenate([np.array([self.ids.im_start], np.int32), self.text("assistant\n")])

    def _encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Like `_encode_uncached`, but texts of usual lengths are encoded once; many long ones would fill memory."""
        return (self._encode_cached if len(text) <= CACHED_TEXT else self._encode_uncached)(text)

    def _encode_uncached(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [n] and character ranges int64 [n, 2] of a text."""
        self._tokenizer.encode_special_tokens = True
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be encoded and becomes "?"
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int64).reshape(-1, 2)
        ids.flags.writeable = offsets.flags.writeable = False  # the cache returns the same arrays again
        return ids, offsets


class _Writer:
    """Collects tokens. Adjacent texts are joined before they are encoded: one by one, they would have other tokens."""

    def __init__(self, encode):
        self._encode = encode
        self._tokens: list[np.ndarray] = []
        self._train: list[np.ndarray] = []
        self._texts: list[tuple[str, bool]] = []

    def text(self, text: str, train: bool) -> None:
        if text:
            self._texts.append((text, train))

    def special(self, token: int, count: int = 1, train: bool = False) -> None:
        self._flush()
        self._tokens.append(np.full(count, token, np.int32))
        self._train.append(np.full(count, train))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        self._flush()
        return np.concatenate(self._tokens), np.concatenate(self._train)

    def _flush(self) -> None:
        if not self._texts:
            return
        ids, offsets = self._encode("".join(text for text, _ in self._texts))
        self._tokens.append(ids)
        if any(train for _, train in self._texts):
            flags = np.repeat([train for _, train in self._texts], [len(text) for text, _ in self._texts])
            trained = np.concatenate([[0], np.cumsum(flags)])
            first, last = offsets.T
            # A token that spans two texts is trained only if all of its characters are.
            self._train.append((last > first) & (trained[last] - trained[first] == last - first))
        else:
            self._train.append(np.zeros(len(ids), bool))
        self._texts = []


def content_items(message: Message, place: str = "message") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Iterates over the content of a message as (kind, item); the kind is "text", "image" or "video".

    The medium of an item lies under its kind, whatever key the message has it under: `image`, `image_url`, or, in an
    item with a `type`, `path`, `url`, `base64` or `bytes`. It is given as it is written; `items.media_source` reads it.

    Raises:
      UserError: content of another form; the message names the item.
    """
    content = message.get("content")
    if isinstance(content, str):
        yield "text", {"text": content}
        return
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise UserError(f"{place}: content is {type(content).__name__}; it is a string or a list of items")
    for number, item in enumerate(content):
        if not isinstance(item, Mapping):
            raise UserError(f"{place}, item {number}: {type(item).__name__}; it is a mapping of text, image or video")
        yield _item(item, f"{place}, item {number}")


def _item(item: Mapping[str, Any], place: str) -> tuple[str, Mapping[str, Any]]:
    # Rows of a table hold every key, the unused ones as None.
    names = {"text": "text", "image": "image", "image_url": "image", "video": "video", "video_url": "video"}
    present = [name for name in names if item.get(name) is not None]
    of_any = {key: item[key] for key in SOURCE_KEYS if item.get(key) is not None}
    name = item.get("type") or (present[0] if len(present) == 1 else None)
    kind = names.get(name) if isinstance(name, str) else None
    given = [one for one in present if names[one] == kind]
    if kind is None or len(given) > 1 or (not given and (kind == "text" or not of_any)):
        what = ", ".join([*present, *of_any]) or "no text, image or video"
        raise UserError(f"{place}: type {shown(name)} with {what}")
    if kind == "text":
        if not isinstance(item["text"], str):
            raise UserError(f"{place}: text is {type(item['text']).__name__}; it is a string")
        return kind, item
    source = item[given[0]] if given else of_any
    return kind, item if source is item.get(kind) else {**item, kind: source}
