"""The host's account of pages: nobody's page is another's, what waits comes back, and nothing waits for ever."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pixel_reasoner_jax.models.cache import SHARING
from pixel_reasoner_jax.processing import Budgets, Geometry
from pixel_reasoner_jax.rollout.counters import Counters
from pixel_reasoner_jax.rollout.pages import CachePages, list_reads
from pixel_reasoner_jax.rollout.shapes import Shapes

GEOMETRY = Geometry(14, 2, 2, 112, 2)
PAGE = 4


def shapes(slots=8, length=40, tokens=None, chunk=8) -> Shapes:
    made = Shapes.holding(slots, length, GEOMETRY, Budgets(), page=PAGE, most_chunk=chunk, cache_tokens=tokens)
    return dataclasses.replace(made, most_chunk=chunk)


class Memory:
    """Pages whose contents are Python objects, and a host that receives what is saved a while later."""

    def __init__(self, pages, random):
        self.pages = [None] * pages
        self._random = random
        self._coming: list = []

    def save(self, part, pages):
        saved = Box([self.pages[page] for page in pages])
        self._coming.append(saved)
        return saved

    def load(self, part, pages, saved):
        assert saved.is_ready
        for page, content in zip(pages, saved.contents, strict=True):
            self.pages[page] = content

    def arrive(self):
        for saved in self._coming:
            saved.is_ready = True
        self._coming = []


class Box:
    def __init__(self, contents):
        self.contents, self.is_ready = contents, False


@pytest.mark.parametrize("seed", range(8))
def test_responses_keep_what_is_theirs_however_often_they_wait(seed):
    random = np.random.default_rng(seed)
    sizes = shapes(tokens=int(random.integers(80, 200)))
    memory, counters = Memory(sizes.pages, random), Counters()
    account = CachePages(sizes, 1, memory, counters)
    alive, prompts, ended, begun = {}, None, 0, 0

    def contents(one):
        name, pages, tokens = one
        row = account.row(pages)[: -(-tokens // PAGE)]
        full = len(pages.prompt.full)
        return [memory.pages[page] for page in row], [("prompt", name[0], i) for i in range(full)] + [
            ("own", name, i) for i in range(full, len(row))
        ]

    def write(name, pages, first):
        row = account.row(pages)
        for i in range(first, len(pages.prompt.full) + len(pages.own)):
            memory.pages[row[i]] = ("own", name, i)

    queries = iter(range(30))
    for _ in range(3000):
        memory.arrive() if random.random() < 0.7 else None
        account.resume()
        if prompts is None and random.random() < 0.5 and (query := next(queries, None)) is not None:
            tokens, samples = int(random.integers(1, 20)), int(random.integers(1, 5))
            prompts = [query, None, tokens, samples]
        while prompts and account.has_room(0, prompts[2] if prompts[1] is None else 0) and len(alive) < sizes.slots:
            query, prompt, tokens, left = prompts
            if prompt is None:
                prompt = prompts[1] = account.begin(0, tokens)
                for i, page in enumerate(prompt.full):
                    memory.pages[page] = ("prompt", query, i)
            pages, copy = account.fork(prompt, left == 1)
            name, begun = (query, left), begun + 1
            write(name, pages, len(prompt.full))
            alive[name] = [name, pages, tokens]
            prompts[3] -= 1
            if prompts[3] == 0:
                prompts = None
        for one in list(alive.values()):
            name, pages, tokens = one
            if pages.waits:
                continue
            more = min(tokens + int(random.integers(0, 4)), 40)
            if not account.reserve(pages, more):
                continue
            one[2] = more
            write(name, pages, len(pages.prompt.full))
            if more == 40 or random.random() < 0.02:
                account.release(pages)
                del alive[name]
                ended += 1
        for one in alive.values():
            if not one[1].waits:
                found, expected = contents(one)
                assert found == expected
    assert next(queries, None) is None and prompts is None and not alive and ended == begun
    assert sorted(account._free[0]) == list(range(sizes.pages))
    assert counters.waits > 0


def test_a_prompt_lies_in_memory_once():
    sizes = shapes(slots=8, length=40)
    account = CachePages(sizes, 1, Memory(sizes.pages, None), Counters())
    prompt = account.begin(0, 10)  # two full pages and a half
    forks = [account.fork(prompt, number == 3) for number in range(4)]
    rows = [account.row(pages) for pages, _ in forks]
    assert all(list(row[:2]) == prompt.full for row in rows)
    copies = [copy for _, copy in forks]
    assert copies[3] is None and len(set(copies[:3])) == 3 and len({row[2] for row in rows}) == 4
    assert len(account._free[0]) == sizes.pages - 2 - 4


def test_a_query_that_is_dropped_gives_everything_back():
    sizes = shapes()
    account = CachePages(sizes, 1, Memory(sizes.pages, None), Counters())
    prompt = account.begin(0, 10)
    pages, _ = account.fork(prompt, False)
    account.release_prompt(prompt)
    account.release(pages)
    assert sorted(account._free[0]) == list(range(sizes.pages))


def test_what_is_listed_is_what_is_read():
    sizes = shapes(slots=24, length=40, chunk=8)
    account = CachePages(sizes, 1, Memory(sizes.pages, None), Counters())
    rows, slot, random = [], 0, np.random.default_rng(0)
    for tokens, samples in ((9, 11), (3, 1), (16, 5)):
        prompt = account.begin(0, tokens)
        for number in range(samples):
            pages, _ = account.fork(prompt, number == samples - 1)
            length = int(random.integers(tokens + 1, 41))
            assert account.reserve(pages, length)
            rows.append((slot, pages, length - PAGE if length > tokens + PAGE else length))
            slot += 1
    reads = list_reads(sizes, rows)
    assert len(reads.page) == sizes.items and reads.rows.shape == (sizes.items, SHARING)
    for slot, pages, tokens in rows:
        mine = np.flatnonzero((reads.rows == slot).any(axis=1))
        np.testing.assert_array_equal(reads.page[mine], account.row(pages)[: -(-tokens // PAGE)])
        np.testing.assert_array_equal(reads.first[mine], np.arange(len(mine)) * PAGE)
        for chunk in {number // sizes.chunk for number in mine}:  # always in one column, and listed in its order
            inside = [number for number in mine if number // sizes.chunk == chunk]
            assert len({int(np.flatnonzero(reads.rows[number] == slot)[0]) for number in inside}) == 1
    used = (reads.rows < sizes.slots).sum(axis=1).reshape(-1, sizes.chunk).max(axis=1)
    np.testing.assert_array_equal(reads.columns, used)
    assert (np.diff((used > 0).astype(int)) <= 0).all()  # what is used comes first
