"""The figures of a benchmark, from its scored records: scores with intervals, categories, samples, operations.

Every score is in [0, 1], whatever the benchmark; its interval is in the same unit. The unit of an interval is the item:
several responses to one item are its mean score. An item whose media could not be read scores 0, and has no part in
what is said of responses.
"""

from __future__ import annotations

import array
import collections
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation.intervals import mcnemar, paired_difference, score_interval
from pixel_reasoner_jax.evaluation.metrics import operation_figures
from pixel_reasoner_jax.evaluation.records import MODES, ScoredRecord
from pixel_reasoner_jax.evaluation.samples import best_of, majority, spelled

RIGHT = 0.5  # an item is right if its score is at least this: of several responses, if half of them are


def benchmark_figures(records: Iterable[ScoredRecord]) -> dict[str, dict[str, Any]]:
    """The figures of every benchmark that the records are of, by its name.

    The records are read once and may come in any order; what is kept of one is a few numbers and its answer.

    Returns:
      For each benchmark what `Tally.figures` gives for its mode. Where it was answered in both modes that is the pixel
      mode's, with `modes`, the figures by mode, and `difference`, by `difference`, of pixel less text.

    Raises:
      UserError: a response is there twice.
    """
    out = {}
    for name, tallies in tally_records(records).items():
        by_mode = {mode: tallies[mode].figures() for mode in MODES if mode in tallies}
        out[name] = {**next(iter(by_mode.values())), "mode": next(iter(by_mode))}
        if len(by_mode) > 1:
            pixel, text = (tallies[mode] for mode in MODES)
            out[name] |= {"mode": "both", "modes": by_mode, "difference": difference(text, pixel)}
    return out


def tally_records(records: Iterable[ScoredRecord]) -> dict[str, dict[str, Tally]]:
    """A tally of the records of each benchmark and each mode."""
    tallies: dict[str, dict[str, Tally]] = {}
    for record in records:
        tallies.setdefault(record.benchmark, {}).setdefault(record.mode, Tally()).add(record)
    return tallies


class Tally:
    """The scored records of one benchmark in one mode, as columns: numbers of responses, and what items share.

    Figures do not depend on the order in which records are added, down to the last digit.
    """

    def __init__(self) -> None:
        self._benchmark = ""
        self._items: dict[str, int] = {}
        self._unreadable: list[bool] = []
        self._clusters: list[Hashable] = []
        self._categories: list[tuple[tuple[str, str], ...]] = []
        self._columns = {name: array.array("q") for name in ("item", "sample", "calls", "failed")}
        self._columns |= {name: array.array("d") for name in ("score", "tokens", "seconds")}
        self._scores: dict[str, array.array] = {}
        self._answers: list[str | None] = []
        self._ended: collections.Counter[str] = collections.Counter()
        self._shared: dict[Hashable, Hashable] = {}  # equal texts and categories are kept once
        self._arranged = True

    def add(self, record: ScoredRecord) -> None:
        self._benchmark = record.benchmark
        item = self._items.setdefault(record.id, len(self._items))
        if item == len(self._unreadable):
            self._unreadable.append(record.unreadable)
            self._clusters.append(item if record.cluster is None else self._once(record.cluster))
            self._categories.append(self._once(tuple(_categories(record.categories))))
        values = {
            "item": item,
            "sample": record.sample,
            "score": 0.0 if record.unreadable else _number(record.score),
            "calls": record.operations,
            "failed": record.failed,
            "tokens": _number(record.tokens),
            "seconds": _number(record.seconds),
        }
        for name, value in values.items():
            self._columns[name].append(value)
        for name, score in record.scores.items():
            column = self._scores.setdefault(name, array.array("d"))
            column.extend([math.nan] * (len(self._answers) - len(column)))
            column.append(_number(score))
        self._answers.append(None if record.answer is None else self._once(spelled(record.answer)))
        if not record.unreadable:
            self._ended[record.ended or "unknown"] += 1
        self._arranged = False

    def _once(self, value: Any) -> Any:
        return self._shared.setdefault(value, value)

    def _arrange(self) -> None:
        """Sorts items by their ids, and responses by item and sample."""
        if self._arranged:
            return
        self._arranged = True
        ids = sorted(self._items, key=lambda id: (len(id), id))
        before = [self._items[id] for id in ids]
        self._items = {id: number for number, id in enumerate(ids)}
        for shared in (self._unreadable, self._clusters, self._categories):
            shared[:] = [shared[item] for item in before]
        items = np.argsort(before)[np.array(self._columns["item"])]
        self._columns["item"] = array.array("q", items.tolist())
        order = np.lexsort((np.array(self._columns["sample"]), items))
        for columns in (self._columns, self._scores):
            for name, column in columns.items():
                column.extend([math.nan] * (len(items) - len(column)))
                columns[name] = array.array(column.typecode, np.array(column)[order].tolist())
        self._answers = [self._answers[response] for response in order]

    def _column(self, name: str) -> np.ndarray:
        """Numbers of responses, in order."""
        self._arrange()
        return np.array(self._columns[name])

    @property
    def ids(self) -> list[str]:
        """Of the items, sorted, numbers by their value."""
        self._arrange()
        return list(self._items)

    @property
    def clusters(self) -> list[Hashable]:
        """For each item what it shares with others: a name, or a number of its own."""
        self._arrange()
        return self._clusters

    def item_scores(self) -> np.ndarray:
        """The mean score of each item's responses; NaN where none has a score."""
        return self._item_means(self._column("score"))

    def scores_by_id(self) -> dict[str, float]:
        """`item_scores` of the items that have one, by id."""
        pairs = zip(self.ids, self.item_scores().tolist(), strict=True)
        return {id: score for id, score in pairs if not math.isnan(score)}

    def categories(self) -> dict[str, dict[str, Any]]:
        """The categories by name: their `kind`, and `items`, the numbers of their items.

        A name that several kinds of category have is `KIND: NAME` for each of them.
        """
        self._arrange()
        found: dict[tuple[str, str], list[int]] = {}
        for item, categories in enumerate(self._categories):
            for category in categories:
                found.setdefault(category, []).append(item)
        kinds = collections.Counter(name for _, name in found)
        return {
            name if kinds[name] == 1 else f"{kind}: {name}": {"kind": kind, "items": items}
            for (kind, name), items in sorted(found.items())
        }

    def figures(self) -> dict[str, Any]:
        """The figures, in types that JSON has.

        Returns:
          `score`, `interval` (low and high), `interval_method` and `clusters`: of all items; None without an answer.
          `count`, `responses`: items and responses; `unreadable`: items without readable media; `unscored`: items that
            have no part in the score, since they have no answer or the scorer leaves them out.
          `categories`: name to `kind`, score, interval and count.
          `scorers`: score, interval and count by each known scorer; `spread`: the lowest and the highest score.
          `rapr`, `operations`, `failure_rate`: see `metrics.operation_figures`.
          `with_operations`, `without_operations`: score, interval and count of the responses that have at least one
            successful operation, and of the others. The model chose which, so the difference is no effect.
          `ended`: why responses ended, counted. `tokens`, `seconds`: means per response, None if not counted.
          `samples`: responses for each item; with several, `avg@k`, `pass@k` for some k and `maj@k`, by `_of_samples`.

        Raises:
          UserError: a response is there twice.
        """
        self._check_once()
        scores, answered = self.item_scores(), self._answered()
        calls, failed = self._column("calls")[answered], self._column("failed")[answered]
        return {
            **self._scored(scores),
            "count": len(scores),
            "responses": int(answered.sum()),
            "unreadable": sum(self._unreadable),
            "unscored": int(np.isnan(scores).sum()),
            "categories": self._by_category(scores),
            **self._by_scorer(),
            **operation_figures(calls, failed),
            **self._by_operations(answered),
            "ended": dict(sorted(self._ended.items())),
            "tokens": _mean(self._column("tokens")[answered]),
            "seconds": _mean(self._column("seconds")[answered]),
            **self._of_samples(scores),
        }

    def _check_once(self) -> None:
        pairs = np.stack([self._column("item"), self._column("sample")])
        found, counts = np.unique(pairs, axis=1, return_counts=True)
        if (counts > 1).any():
            item, sample = found[:, counts.argmax()].tolist()
            name = f"{self._benchmark} {self.ids[item][:80]!r}"
            raise UserError(f"sample {sample} of {name} is there {counts.max()} times: evaluate into an empty folder")

    def _answered(self) -> np.ndarray:
        """Which responses there are: an item that could not be read has none."""
        return ~np.array(self._unreadable)[self._column("item")]

    def _item_means(self, values: np.ndarray) -> np.ndarray:
        """The mean over each item's responses that have a value; NaN where none has."""
        items, there = self._column("item"), ~np.isnan(values)
        sums = np.bincount(items, np.where(there, values, 0.0))
        counts = np.bincount(items, there)
        return np.divide(sums, counts, out=np.full(len(sums), math.nan), where=counts > 0)

    def _scored(self, scores: np.ndarray, items: Sequence[int] | None = None) -> dict[str, Any]:
        """Score, interval and so on of a value for each of `items`, or for each item."""
        items = range(len(scores)) if items is None else items
        pairs = [(score, self._clusters[item]) for score, item in zip(scores, items, strict=True) if score == score]
        if not pairs:
            return {"score": None, "interval": None, "interval_method": None, "clusters": 0}
        found = score_interval(*zip(*pairs, strict=True))
        return {
            "score": found.mean,
            "interval": [found.low, found.high],
            "interval_method": found.method,
            "clusters": found.clusters,
        }

    def _by_category(self, scores: np.ndarray) -> dict[str, Any]:
        out = {}
        for name, category in self.categories().items():
            items = category["items"]
            out[name] = {"kind": category["kind"], **self._scored(scores[items], items), "count": len(items)}
        return out

    def _by_scorer(self) -> dict[str, Any]:
        unreadable, out = np.array(self._unreadable), {}
        for name, column in self._scores.items():
            means = np.where(unreadable, 0.0, self._item_means(np.array(column)))
            out[name] = {**self._scored(means), "count": int((~np.isnan(means)).sum())}
        means = [figures["score"] for figures in out.values() if figures["score"] is not None]
        return {"scorers": out, "spread": [min(means), max(means)] if means else None}

    def _by_operations(self, answered: np.ndarray) -> dict[str, Any]:
        looked = self._column("calls") > self._column("failed")
        items, scores, out = self._column("item"), self._column("score"), {}
        for name, chosen in {"with_operations": looked, "without_operations": ~looked}.items():
            chosen = chosen & answered
            out[name] = {**self._scored(scores[chosen], items[chosen].tolist()), "count": int(chosen.sum())}
        return out

    def _of_samples(self, scores: np.ndarray) -> dict[str, Any]:
        """`samples`, the fewest responses of an item that could be read, and if these are several what they come to.

        `avg@k` is the score itself. `pass@k` is the expected best of k, for k = 1, 2, 4, … and all. `maj@k` is the
        score of the answer that most responses give, with `ties`, the items in which several lead.
        """
        groups: list[list[int]] = [[] for _ in self._items]
        for response, item in enumerate(self._columns["item"]):
            groups[item].append(response)
        readable = [len(group) for group, unreadable in zip(groups, self._unreadable, strict=True) if not unreadable]
        k = min(readable, default=1)
        if k < 2:
            return {"samples": k}
        out: dict[str, Any] = {"samples": k, f"avg@{k}": self._scored(scores)}
        values, answers = [], []
        for group, mean, unreadable in zip(groups, scores.tolist(), self._unreadable, strict=True):
            # A response that the scorer leaves out is none of the best, unless it leaves all of the item's out.
            left_out = math.nan if math.isnan(mean) else 0.0
            given = [self._columns["score"][response] for response in group]
            values.append([0.0] * k if unreadable else [left_out if math.isnan(x) else x for x in given])
            answers.append([None] * k if unreadable else [self._answers[response] for response in group])
        for count in sorted({2**power for power in range(k.bit_length())} | {k}):
            out[f"pass@{count}"] = self._scored(np.array([best_of(group, count) for group in values]))
        chosen = [majority(*pair) for pair in zip(answers, values, strict=True)]
        ties = sum(tied for _, tied in chosen)
        out[f"maj@{k}"] = {**self._scored(np.array([score for score, _ in chosen])), "ties": ties}
        return out


def difference(baseline: Tally, other: Tally, items: Iterable[str] | None = None) -> dict[str, Any]:
    """The paired difference of the same items' scores, `other` less `baseline`.

    Args:
      baseline, other: of the same benchmark.
      items: ids of those that count; all that both have and that have an answer, unless given.

    Returns:
      `difference`, `interval`, `interval_method`; `count` of the pairs; `gained` and `lost`, items that are right in
      `other` alone and in `baseline` alone; `p`, of McNemar's exact test of these. Without a pair, None for what needs
      one.
    """
    before, after = baseline.scores_by_id(), other.scores_by_id()
    cluster = dict(zip(baseline.ids, baseline.clusters, strict=True))
    chosen = [id for id in (baseline.ids if items is None else items) if id in before and id in after]
    if not chosen:
        return dict.fromkeys(("difference", "interval", "interval_method", "p")) | {"count": 0, "gained": 0, "lost": 0}
    first, second = np.array([before[id] for id in chosen]), np.array([after[id] for id in chosen])
    found = paired_difference(first, second, [cluster[id] for id in chosen])
    gained = int(((first < RIGHT) & (second >= RIGHT)).sum())
    lost = int(((first >= RIGHT) & (second < RIGHT)).sum())
    return {
        "difference": found.mean,
        "interval": [found.low, found.high],
        "interval_method": found.method,
        "count": len(chosen),
        "gained": gained,
        "lost": lost,
        "p": mcnemar(gained, lost),
    }


def _categories(categories: Mapping[str, str | Sequence[str]]) -> Iterable[tuple[str, str]]:
    """Kind and name of each category that an item is in: of a path of names each beginning of it."""
    for kind, value in categories.items():
        path = [value] if isinstance(value, str) else list(value)
        for depth in range(1, len(path) + 1):
            yield kind, "/".join(path[:depth])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(values: np.ndarray) -> float | None:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if len(counted) else None
