"""The host's account of the cache's pages: whose they are, and which responses wait because none are free.

The prompt of a group lies in memory once. Its responses share its full pages, and each has a copy of the last page if
that is not full. A response takes pages as it grows. When none is free, the youngest responses wait: their pages are
saved in the host's memory, to the bit, and come back when there is room. A response makes only younger ones wait, and
none begins while one waits, so that the oldest always goes on: nothing waits for ever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from pixel_reasoner_jax.models.cache import SHARING, Reads
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.shapes import Shapes

# Pages that stay free for every response in memory when another one begins. With lengths like the method's, 1, 2 and 4
# made a response wait 0.75, 0.41 and 0.13 times, and the pool 1.04, 1.05 and 1.10 times the tokens in it.
RESERVED = 3


class SavedPages(Protocol):
    """Pages in the host's memory, once the device has sent them (`is_ready`)."""

    is_ready: bool


class Mover(Protocol):
    """Who moves pages between the devices and the host, in the order of the calls; `runner.ModelRunner` does."""

    def save(self, part: int, pages: Sequence[int]) -> SavedPages:
        """Has pages saved."""

    def load(self, part: int, pages: Sequence[int], saved: SavedPages) -> None:
        """Has pages that are saved written into others."""


@dataclasses.dataclass
class PromptPages:
    """The pages of a prompt.

    Attributes:
      part: of the mesh.
      tokens: of the prompt.
      full: its full pages in order; None while no response that is in memory needs them.
      last: the page after these, if there is one, until the last response of the group has taken it.
      holders: responses in memory that read them, and one more until all responses of the group have begun.
      waiting: responses that will read them again.
      saved: the full pages in the host's memory, once they had to be brought there.
    """

    part: int
    tokens: int
    full: list[int] | None
    last: int | None
    holders: int = 1
    waiting: int = 0
    saved: SavedPages | None = None


@dataclasses.dataclass(eq=False)
class ResponsePages:
    """The pages of a response.

    Attributes:
      prompt: whose full pages it reads first.
      own: the pages after these, in order.
      saved: its own pages in the host's memory; None while it is in memory.
      count: how many were saved.
    """

    prompt: PromptPages
    own: list[int]
    saved: SavedPages | None = None
    count: int = 0

    @property
    def waits(self) -> bool:
        """Whether it has to wait for pages."""
        return self.saved is not None


class CachePages:
    """Gives the pages of all parts of the mesh that this process feeds to prompts and responses.

    Args:
      shapes: how many pages there are, and of how many tokens.
      parts: how many parts of the mesh.
      mover: moves pages to the host and back.
      counters: `waits` counts how often a response had to wait.
    """

    def __init__(self, shapes: Shapes, parts: int, mover: Mover, counters: Counters):
        self._shapes, self._mover, self._counters = shapes, mover, counters
        self._free = [list(range(shapes.pages))[::-1] for _ in range(parts)]
        # In the order in which they began.
        self._responses: list[list[ResponsePages]] = [[] for _ in range(parts)]

    def free(self, part: int) -> int:
        """How many pages of a part are free."""
        return len(self._free[part])

    def has_room(self, part: int, tokens: int = 0) -> bool:
        """Whether another response can begin: some pages stay free for those that are in memory to grow.

        Args:
          tokens: of its prompt, if that is not in memory.
        """
        responses = self._responses[part]
        if any(one.waits for one in responses):
            return False
        return not responses or len(self._free[part]) >= self._pages(tokens) + 2 + RESERVED * len(responses)

    def begin(self, part: int, tokens: int) -> PromptPages:
        """Gives pages to a prompt for which there is room."""
        full, rest = divmod(tokens, self._shapes.page)
        return PromptPages(part, tokens, self._take(part, full), self._take(part, 1)[0] if rest else None)

    def fork(self, prompt: PromptPages, is_last: bool) -> tuple[ResponsePages, int | None]:
        """Begins a response.

        Args:
          is_last: whether no other response of the group will begin.

        Returns:
          Its pages, and the one that the prompt's last page has to be copied to; None for no copy.
        """
        prompt.holders += not is_last
        copy = None
        if prompt.last is None:
            own = []
        elif is_last:
            own, prompt.last = [prompt.last], None
        else:
            own = self._take(prompt.part, 1)
            copy = own[0]
        pages = ResponsePages(prompt, own)
        self._responses[prompt.part].append(pages)
        return pages, copy

    def reserve(self, pages: ResponsePages, tokens: int) -> bool:
        """Gives a response that is in memory the pages that so many tokens need, prompt included.

        Returns:
          False if it has to wait, since all younger ones wait already.
        """
        part = pages.prompt.part
        missing = self._pages(tokens) - len(pages.prompt.full) - len(pages.own)
        while missing > len(self._free[part]):
            youngest = next(one for one in reversed(self._responses[part]) if not one.waits)
            self._make_wait(youngest)
            if youngest is pages:
                return False
        pages.own += self._take(part, max(0, missing))
        return True

    def resume(self) -> None:
        """Brings back the responses for which there is room again, the oldest first."""
        for part, responses in enumerate(self._responses):
            resident = sum(not one.waits for one in responses)
            for pages in [one for one in responses if one.waits]:
                prompt = pages.prompt
                needed = pages.count + (0 if prompt.full is not None else prompt.tokens // self._shapes.page)
                is_here = pages.saved.is_ready and (prompt.full is not None or prompt.saved.is_ready)
                if not is_here or resident and len(self._free[part]) < needed + 1 + resident:
                    break
                self._bring_back(pages)
                resident += 1

    def release(self, pages: ResponsePages) -> None:
        """Takes back the pages of a response that has ended."""
        self._responses[pages.prompt.part].remove(pages)
        self._free[pages.prompt.part] += pages.own
        pages.own = []
        if pages.waits:
            pages.prompt.waiting -= 1
        else:
            self._let_go(pages.prompt)

    def release_prompt(self, prompt: PromptPages) -> None:
        """Takes back the pages of a prompt of whose group no other response will begin, though some have not."""
        if prompt.last is not None:
            self._free[prompt.part].append(prompt.last)
            prompt.last = None
        self._let_go(prompt)

    def row(self, pages: PromptPages | ResponsePages) -> np.ndarray:
        """A row of a table of pages (`models.cache.Pages`), int32 [pages of the longest slot]."""
        if isinstance(pages, PromptPages):
            numbers = pages.full + ([] if pages.last is None else [pages.last])
        else:
            numbers = pages.prompt.full + pages.own
        row = np.zeros(self._shapes.slot_pages, np.int32)
        row[: len(numbers)] = numbers
        return row

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self._shapes.page)

    def _take(self, part: int, count: int) -> list[int]:
        free = self._free[part]
        if count > len(free):
            raise RuntimeError(f"{count} pages are needed and {len(free)} are free")
        return [free.pop() for _ in range(count)]

    def _make_wait(self, pages: ResponsePages) -> None:
        prompt = pages.prompt
        pages.saved, pages.count = self._mover.save(prompt.part, pages.own), len(pages.own)
        self._free[prompt.part] += pages.own
        pages.own = []
        prompt.waiting += 1
        self._let_go(prompt)
        self._counters.waits += 1

    def _bring_back(self, pages: ResponsePages) -> None:
        prompt = pages.prompt
        if prompt.full is None:
            prompt.full = self._take(prompt.part, prompt.tokens // self._shapes.page)
            self._mover.load(prompt.part, prompt.full, prompt.saved)
        prompt.holders += 1
        prompt.waiting -= 1
        pages.own = self._take(prompt.part, pages.count)
        self._mover.load(prompt.part, pages.own, pages.saved)
        pages.saved = None

    def _let_go(self, prompt: PromptPages) -> None:
        prompt.holders -= 1
        if prompt.holders == 0:
            if prompt.waiting and prompt.saved is None:
                prompt.saved = self._mover.save(prompt.part, prompt.full)
            self._free[prompt.part] += prompt.full
            prompt.full = None


def list_reads(shapes: Shapes, rows: Iterable[tuple[int, ResponsePages, int]]) -> Reads:
    """Lists the pages that are read for some slots of a part; see `models.cache.Reads`.

    Args:
      rows: (slot, its pages, tokens that are read, prompt included) of each; they are in memory.
    """
    page = np.zeros(shapes.items, np.int32)
    first = np.zeros(shapes.items, np.int32)
    readers = np.full((shapes.items, SHARING), shapes.slots, np.int32)
    by_prompt: dict[int, list[tuple[int, ResponsePages, int]]] = {}
    for row in rows:
        by_prompt.setdefault(id(row[1].prompt), []).append(row)
    count = 0

    def add(numbers: Sequence[int], begin: int, slots: Sequence[int]) -> None:
        nonlocal count
        end = count + len(numbers)
        page[count:end] = numbers
        first[count:end] = (begin + np.arange(len(numbers))) * shapes.page
        readers[count:end, : len(slots)] = slots
        count = end

    groups = sorted(by_prompt.values(), key=len, reverse=True)
    for group in groups:  # first what is shared, so that few chunks have pages of many rows and of one
        for begin in range(0, len(group), SHARING):
            add(group[0][1].prompt.full, 0, [slot for slot, _, _ in group[begin : begin + SHARING]])
    count += -count % shapes.chunk  # a row's own pages are in another column
    for slot, pages, tokens in (row for group in groups for row in group):
        begin = len(pages.prompt.full)
        add(pages.own[: -(-tokens // shapes.page) - begin], begin, [slot])
    used = (readers < shapes.slots).sum(axis=1).reshape(-1, shapes.chunk)
    return Reads(page, first, readers, used.max(axis=1).astype(np.int32))
