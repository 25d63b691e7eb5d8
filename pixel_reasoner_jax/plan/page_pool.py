"""The pages that the responses of a simulated rollout hold, in every part of the mesh.

A group's prompt lies in its part once: samples share its full pages, and each copies the last, unfinished one; the
original is kept until the last sample has begun. A response that waits gives its pages to the host, with its slot kept.
"""

from __future__ import annotations

import numpy as np

from pixel_reasoner_jax.rollout.capacity import PAGE, pages_of


class PagePool:
    """Arrays of responses count all of them, group by group.

    Args:
      prompts: tokens of each group's prompt.
      counts: responses of each group.
      parts, pages: parts of the mesh, and pages in each.
      longest: tokens of the longest response, prompt included.

    Attributes:
      group: of each response.
      full: full pages of each group's prompt.
      unbegun: responses of each group that have not begun.
      part, length, age: of each response that has begun: where it is, its tokens, and its place in the order of begins.
      held: pages of its own that it has.
      waits: whether it waits for pages.
      free: free pages in each part.
      moved: pages moved to the host and back in each part.
      times_waited: how often responses were made to wait.
    """

    def __init__(self, prompts: np.ndarray, counts: np.ndarray, parts: int, pages: int, longest: int):
        self._prompts, self._longest = prompts, longest
        self.group = np.repeat(np.arange(len(counts)), counts)
        self.full, self.unbegun = prompts // PAGE, np.array(counts)
        self._prompt_held, self._residents_of_group = np.zeros((2, len(counts)), int)
        self.part, self.length, self.age, self.held = np.zeros((4, len(self.group)), int)
        self._in_flight, self.waits = np.zeros((2, len(self.group)), bool)
        self.free, self.moved, self.times_waited = np.full(parts, pages), np.zeros(parts, int), 0
        self._begun = 0

    @property
    def in_flight(self) -> int:
        """Responses that have begun and not ended."""
        return int(self._in_flight.sum())

    @property
    def prompt_pages(self) -> int:
        """Pages that hold prompts, in all parts."""
        return int(self._prompt_held.sum())

    def fits(self, response: int, part: int, length: int, reserved: int = 1) -> bool:
        """Whether a response of `length` tokens can come into a part's pool: with pages in reserve for every one that
        is there, so that they need not wait for it at once. One always can come into an empty part."""
        others, group = int(self._are_resident(part).sum()), self.group[response]
        own = pages_of(min(length, self._longest)) - self.full[group]
        unbegun = self.unbegun[group] - (not self._in_flight[response])
        prompt = 0 if self._residents_of_group[group] else self._pages_of_prompt(group, unbegun)
        return not others or own + prompt + reserved * others <= self.free[part]

    def begin(self, response: int, part: int) -> None:
        """Puts a response, which is its prompt so far, into a part."""
        group = self.group[response]
        self.unbegun[group] -= 1
        self.part[response], self.age[response] = part, self._begun
        self.length[response] = self._prompts[group]
        self._in_flight[response] = True
        self._begun += 1
        self._enter(response)

    def bring_back(self, response: int) -> None:
        """Brings the pages of a response that waits back from the host."""
        self.waits[response] = False
        self.moved[self.part[response]] += self._enter(response)

    def end(self, response: int) -> None:
        """Frees the pages of a response that has ended."""
        self._leave(response)
        self._in_flight[response] = False

    def take(self, response: int, tokens: int) -> bool:
        """Gives a response the pages that it lacks for `tokens` further tokens; where there are none, the youngest
        responses of its part wait. Returns False if it waits itself."""
        part, wanted = self.part[response], int(self._lacking(np.array([response]), tokens)[0])
        while self.free[part] < wanted:
            youngest = self.by_age(np.flatnonzero(self._are_resident(part)))[-1]
            self.waits[youngest] = True
            self.moved[part] += self._leave(youngest)
            self.times_waited += 1
            if youngest == response:
                return False
        self.free[part] -= wanted
        self.held[response] += wanted
        return True

    def take_all(self, responses: np.ndarray, tokens: int) -> None:
        """`take` for all of these responses, none of which waits so far, the oldest first."""
        wanted = self._lacking(responses, tokens)
        of_parts = np.bincount(self.part[responses], wanted, len(self.free)).astype(int)
        enough = of_parts <= self.free
        given = enough[self.part[responses]]
        self.held[responses[given]] += wanted[given]
        self.free[enough] -= of_parts[enough]
        for response in self.by_age(responses[~given]):
            if not self.waits[response]:
                self.take(response, tokens)

    def by_age(self, responses: np.ndarray) -> list[int]:
        """Responses, the oldest first."""
        return responses[np.argsort(self.age[responses])].tolist()

    def _are_resident(self, part: int) -> np.ndarray:
        """Which responses have pages in a part."""
        return self._in_flight & ~self.waits & (self.part == part)

    def _lacking(self, responses: np.ndarray, tokens: int) -> np.ndarray:
        """Pages of their own that responses lack for so many further tokens."""
        length = np.minimum(self.length[responses] + tokens, self._longest)
        return np.maximum(pages_of(length) - self.full[self.group[responses]] - self.held[responses], 0)

    def _pages_of_prompt(self, group: int, unbegun: int) -> int:
        """Pages of a prompt of which so many samples have not begun."""
        return int(self.full[group]) + bool(self._prompts[group] % PAGE and unbegun)

    def _enter(self, response: int) -> int:
        """Takes the pages of a response's tokens, and of its prompt if that is not there; returns how many."""
        group, part = self.group[response], self.part[response]
        self._residents_of_group[group] += 1
        before = self._prompt_held[group]
        self._prompt_held[group] = self._pages_of_prompt(group, self.unbegun[group])
        own = int(self._lacking(np.array([response]), 0)[0])
        self.held[response] += own
        taken = own + int(self._prompt_held[group] - before)
        self.free[part] -= taken
        return taken

    def _leave(self, response: int) -> int:
        """Takes a response's pages from it, and its prompt's if no other one in the pool has them; returns how many."""
        group = self.group[response]
        self._residents_of_group[group] -= 1
        freed, self.held[response] = int(self.held[response]), 0
        if not self._residents_of_group[group]:
            freed, self._prompt_held[group] = freed + int(self._prompt_held[group]), 0
        self.free[self.part[response]] += freed
        return freed
