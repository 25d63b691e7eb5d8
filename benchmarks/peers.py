"""The workload on PyTorch: transformers' Qwen2.5-VL, on a GPU if PyTorch has one, used in two ways.

Both take the patches and tokens of our processor, so that they are given the same arrays, and neither ever samples
`workload.forbidden_tokens`. Loading the model and the queries is not timed; cutting the crops is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import (
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2_5_VLForConditionalGeneration,
)

from benchmarks import workload as work
from pixel_reasoner_jax.processing import Media, Processor

# As many as the cores that the process may use.
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a peer did, and how long it took.

    Attributes:
      seconds: for all responses.
      processor_seconds: of all threads, meanwhile.
      generated: tokens sampled.
      prefilled: tokens put through the model other than to draw the next, padding aside.
      tokens: int64 [tokens of the turn], what was sampled, for [query][sample][turn].
      device: the GPU's name, or "cpu".
    """

    seconds: float
    processor_seconds: float
    generated: int
    prefilled: int
    tokens: list[list[list[np.ndarray]]]
    device: str


def rerender(
    workload: work.Workload,
    batch_size: int | None = None,
    temperature: float = 1.0,
    rehearse: bool = False,
    compiled: bool = False,
) -> Measurement:
    """The original system's way: in every turn, `generate` is given the whole conversation and all its images anew.

    With turns of many lengths, a loop of our own takes the place of `generate`, `compiled` or not, and leaves out a
    row whose turn has ended.

    Args:
      batch_size: responses at a time; None: all.
      temperature: 0 is greedy.
      rehearse: do all of it once before the clock starts.
      compiled: with a static cache, for which `generate` puts decoding through `torch.compile` if it is on a GPU.
    """
    return _measure(functools.partial(_rerender, compiled=compiled), workload, batch_size, temperature, rehearse)


def kept_cache(
    workload: work.Workload, batch_size: int | None = None, temperature: float = 1.0, rehearse: bool = False
) -> Measurement:
    """By hand: the KV cache is kept from turn to turn, and only what is new is put through the model.

    All rows begin a turn together. One whose turn has ended is left out until the next turn begins.

    Args: see `rerender`.
    """
    return _measure(_kept_cache, workload, batch_size, temperature, rehearse)


class _Piece(NamedTuple):
    """Part of a conversation: tokens int [n] and the images among them, in order."""

    tokens: np.ndarray
    media: list[Media]


class _Forbid(LogitsProcessor):
    """Rules tokens out; the mask is made once, which transformers' own processor would do at every step."""

    def __init__(self, forbidden: torch.Tensor):
        self._forbidden = forbidden

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(self._forbidden, -torch.inf)


class _Peer:
    """The model with everything that is made before the clock starts."""

    def __init__(self, workload: work.Workload, temperature: float):
        self.workload, self.temperature = workload, temperature
        self.processor = Processor.from_pretrained(workload.directory)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, workload.dtype)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(workload.directory, dtype=dtype)
        self.model = model.eval().to(self.device)
        forbidden = torch.zeros(self.model.config.text_config.vocab_size, dtype=torch.bool)
        forbidden[torch.from_numpy(work.forbidden_tokens(self.processor)).long()] = True
        self.forbid = _Forbid(forbidden.to(self.device))
        self._prompts = work.prompts(workload, self.processor)
        self._patches: dict[Media, torch.Tensor] = {}
        for prompt in self._prompts:
            self._keep(prompt.rendered.media)
        self.prefilled = 0

    def prompt(self, query: int) -> _Piece:
        rendered = self._prompts[query].rendered
        return _Piece(rendered.tokens, list(rendered.media))

    def observation(self, query: int, sample: int, turn: int) -> _Piece:
        """Runs the operation that ends `turn`."""
        rendered = work.observation(self.workload, self.processor, self._prompts[query], query, sample, turn)
        self._keep(rendered.media)
        return _Piece(rendered.tokens, list(rendered.media))

    def batch(self, pieces: Sequence[_Piece]) -> dict[str, torch.Tensor]:
        """The arrays transformers takes, a piece a row, padded on the left."""
        width = max(len(piece.tokens) for piece in pieces)
        tokens = np.full((len(pieces), width), self.processor.endoftext, np.int64)
        mask = np.zeros((len(pieces), width), np.int64)
        for row, piece in enumerate(pieces):
            start = width - len(piece.tokens)
            tokens[row, start:], mask[row, start:] = piece.tokens, 1
        media = [item for piece in pieces for item in piece.media]
        arrays = {
            "input_ids": torch.from_numpy(tokens),
            "attention_mask": torch.from_numpy(mask),
            # Without these, transformers 5 numbers image tokens like text.
            "mm_token_type_ids": torch.from_numpy((tokens == self.processor.image_pad).astype(np.int32)),
            "pixel_values": torch.cat([self._patches[item] for item in media]),
            "image_grid_thw": torch.tensor([item.grid for item in media]),
        }
        return {name: array.to(self.device) for name, array in arrays.items()}

    def _keep(self, media: Sequence[Media]) -> None:
        self._patches.update({item: torch.from_numpy(item.patches) for item in media})


Turns = list[list[np.ndarray]]
"""What was sampled, for [row][turn]."""


def _rerender(peer: _Peer, rows: list[tuple[int, int]], compiled: bool) -> Turns:
    workload = peer.workload
    if workload.lengths is not None:
        return _rerender_ragged(peer, rows)
    sampling = {"do_sample": False}
    if peer.temperature > 0:
        sampling = {"do_sample": True, "temperature": peer.temperature, "top_k": 0, "top_p": 1.0}
    settings = GenerationConfig(
        max_new_tokens=workload.turn_tokens, pad_token_id=peer.processor.endoftext, use_cache=True, **sampling
    )
    if compiled:
        settings.cache_implementation = "static"
        settings.compile_config = CompileConfig(fullgraph=False, dynamic=True)
    turns: Turns = [[] for _ in rows]
    conversations = [peer.prompt(query) for query, _ in rows]
    for turn in range(workload.turns):
        if turn:
            for row, (query, sample) in enumerate(rows):
                (tokens, media), seen = conversations[row], peer.observation(query, sample, turn - 1)
                tokens = np.concatenate([tokens, turns[row][-1], seen.tokens])
                conversations[row] = _Piece(tokens, media + seen.media)
        inputs = peer.batch(conversations)
        peer.prefilled += sum(len(piece.tokens) for piece in conversations)
        output = peer.model.generate(
            **inputs, generation_config=settings, logits_processor=LogitsProcessorList([peer.forbid])
        )
        for row, tokens in enumerate(output[:, inputs["input_ids"].shape[1] :].cpu().numpy()):
            turns[row].append(tokens)
    return turns


def _rerender_ragged(peer: _Peer, rows: list[tuple[int, int]]) -> Turns:
    """As `_rerender`, by hand: `generate` would go on with rows whose turn has ended until all have."""
    turns: Turns = [[] for _ in rows]
    conversations = [peer.prompt(query) for query, _ in rows]
    for turn, going in _turns(peer, rows):
        for row in going if turn else ():
            (tokens, media), seen = conversations[row], peer.observation(*rows[row], turn - 1)
            tokens = np.concatenate([tokens, turns[row][-1], seen.tokens])
            conversations[row] = _Piece(tokens, media + seen.media)
        peer.prefilled += sum(len(conversations[row].tokens) for row in going)
        lengths = [peer.workload.row_turns(*rows[row])[turn] for row in going]
        found, _ = _sample_turn(peer, [conversations[row] for row in going], [_EMPTY] * len(going), lengths)
        for row, tokens in zip(going, found, strict=True):
            turns[row].append(tokens)
    return turns


def _kept_cache(peer: _Peer, rows: list[tuple[int, int]]) -> Turns:
    turns: Turns = [[] for _ in rows]
    held = [_EMPTY] * len(rows)
    for turn, going in _turns(peer, rows):
        blocks = [peer.observation(*rows[row], turn - 1) if turn else peer.prompt(rows[row][0]) for row in going]
        peer.prefilled += sum(len(block.tokens) for block in blocks)
        if turn:
            # The last token of a turn was drawn but never put through the model.
            blocks = [
                block._replace(tokens=np.concatenate([turns[row][-1][-1:], block.tokens]))
                for block, row in zip(blocks, going, strict=True)
            ]
        lengths = [peer.workload.row_turns(*rows[row])[turn] for row in going]
        found, kept = _sample_turn(peer, blocks, [held[row] for row in going], lengths)
        for row, tokens, one in zip(going, found, kept, strict=True):
            turns[row].append(tokens)
            held[row] = one
    return turns


def _turns(peer: _Peer, rows: list[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """Each turn, with the indices of the rows that have it."""
    counts = [len(peer.workload.row_turns(*row)) for row in rows]
    for turn in range(max(counts)):
        yield turn, [row for row, count in enumerate(counts) if turn < count]


class _Held(NamedTuple):
    """What is kept of a row between its turns.

    Attributes:
      layers: keys and values of every layer, each [kv_heads, tokens, size].
      following: the position of the next token.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    following: int


_EMPTY = _Held([], 0)


def _sample_turn(
    peer: _Peer, blocks: list[_Piece], held: list[_Held], lengths: list[int]
) -> tuple[list[np.ndarray], list[_Held]]:
    """Puts a block through the model for every row, and samples a turn after it; a row leaves when its turn has ended.

    Args:
      blocks: of every row.
      held: of every row, all of them empty or none.
      lengths: tokens to sample in every row.

    Returns:
      int64 [length] for every row, and what is to be kept of it.
    """
    cache, mask = _joined(held)
    # Padding on the left of a block leaves gaps in the cache, which the mask hides from all that follows.
    inputs = peer.batch(blocks)
    mask = torch.cat([mask.to(peer.device), inputs.pop("attention_mask")], dim=1)
    positions = torch.zeros((3, *inputs["input_ids"].shape), dtype=torch.long)
    starts = [one.following for one in held]
    for row, (tokens, media) in enumerate(blocks):
        where, starts[row] = peer.processor.positions(tokens, media, starts[row])
        positions[:, row, -len(tokens) :] = torch.from_numpy(where)
    positions, following = positions.to(peer.device), torch.tensor(starts, dtype=torch.long, device=peer.device)
    rows, drawn, kept = list(range(len(blocks))), [[] for _ in blocks], [_EMPTY for _ in blocks]
    for step in range(max(lengths)):
        output = peer.model(
            **inputs,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens = _draw(peer.forbid(inputs["input_ids"], output.logits[:, -1]), peer.temperature)
        for row, token in zip(rows, tokens, strict=True):
            drawn[row].append(token)
        ended = [index for index, row in enumerate(rows) if lengths[row] == step + 1]
        if ended:
            left = [index for index in range(len(rows)) if index not in ended]
            for index in ended:
                kept[rows[index]] = _parted(cache, mask, index, int(following[index]))
            chosen = torch.tensor(left, dtype=torch.long, device=peer.device)
            rows = [rows[index] for index in left]
            mask, following, tokens = mask[chosen], following[chosen], tokens[chosen]
            if rows:
                cache.batch_select_indices(chosen)
        inputs, positions = {"input_ids": tokens}, following[None, :, None].expand(3, -1, -1)
        following = following + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return [torch.cat(tokens).cpu().numpy() for tokens in drawn], kept


def _joined(held: list[_Held]) -> tuple[DynamicCache, torch.Tensor]:
    """A cache with these rows, padded on the left, and int64 [rows, tokens], 1 for what is no padding."""
    tokens = [one.layers[0][0].shape[1] if one.layers else 0 for one in held]
    width, cache = max(tokens), DynamicCache()
    mask = torch.tensor([[0] * (width - count) + [1] * count for count in tokens], dtype=torch.long)
    for layer in range(len(held[0].layers)):
        sides = zip(*(one.layers[layer] for one in held), strict=True)
        padded = [
            torch.stack([torch.nn.functional.pad(row, (0, 0, width - row.shape[1], 0)) for row in side])
            for side in sides
        ]
        cache.update(*padded, layer)
    return cache, mask.reshape(len(held), width)


def _parted(cache: DynamicCache, mask: torch.Tensor, row: int, following: int) -> _Held:
    """A row of a cache, without its gaps."""
    seen = mask[row].bool()
    return _Held([(layer.keys[row][:, seen], layer.values[row][:, seen]) for layer in cache.layers], following)


def _draw(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """int64 [rows, 1], one token for each row of logits [rows, vocabulary]."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial((logits / temperature).softmax(dim=-1), 1)


def _measure(
    run: Callable[[_Peer, list[tuple[int, int]]], Turns],
    workload: work.Workload,
    batch_size: int | None,
    temperature: float,
    rehearse: bool,
) -> Measurement:
    rows = workload.rows
    batch_size = len(rows) if batch_size is None else batch_size
    torch.manual_seed(workload.seed)
    with _threads(), torch.inference_mode():
        peer = _Peer(workload, temperature)
        for _ in range(1 + rehearse):
            start, processor = time.perf_counter(), time.process_time()
            turns, peer.prefilled = [], 0
            for first in range(0, len(rows), batch_size):
                turns += run(peer, rows[first : first + batch_size])
            seconds, processor = time.perf_counter() - start, time.process_time() - processor
    generated = sum(len(tokens) for sampled in turns for tokens in sampled)
    groups = [turns[first : first + workload.samples] for first in range(0, len(rows), workload.samples)]
    device = torch.cuda.get_device_name() if peer.device == "cuda" else "cpu"
    return Measurement(seconds, processor, generated, peer.prefilled, groups, device)


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Gives PyTorch a thread for each core, as JAX takes them, and takes them back: it has one setting for all."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
