"""Images of tokens that wait to be appended: worker threads fetch their pixels, the scheduler's thread never does."""

from __future__ import annotations

from collections.abc import Container, Sequence
from concurrent.futures import Future
from typing import Any

from pixel_reasoner_jax.processing import Media
from pixel_reasoner_jax.rollout.workers import Task, Workers


class PendingImages:
    """Images that are in the embedding table, or whose pixels are here, when their tokens are appended.

    Attributes:
      media: the images and videos; once they are ready, with their pixels where these are needed.
    """

    def __init__(self, media: Sequence[Media]):
        self.media = media
        self._task: Task | None = None

    def are_ready(self, held: Container[Any], workers: Workers) -> bool:
        """Whether the tokens can be appended now; else a worker thread fetches the pixels, if none does so already.

        Either all of the images are in the table, or all have their pixels: encoding one may evict another.

        Args:
          held: keys of the images in the table.

        Raises:
          MediaError: an image was to be decoded again, and its file has changed or is gone.
        """
        if self._task is not None:
            if not self._task.future.done():
                return False
            self.media, self._task = self._task.future.result(), None
        if all(one.key in held for one in self.media):
            return True
        at_hand = [one.at_hand() for one in self.media]
        if any(one is None for one in at_hand):
            self._task = workers.submit(fetched, self.media)
            return False
        self.media = at_hand
        return True

    @property
    def coming(self) -> list[Future]:
        """The future of the pixels that a worker thread fetches, if one does."""
        return [] if self._task is None else [self._task.future]


def fetched(media: Sequence[Media]) -> list[Media]:
    """Images with their pixels; for a worker thread."""
    return [one.fetched() for one in media]
