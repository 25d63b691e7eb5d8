"""A trajectory as it is stored: what synthesis and importers write, records keep and the input pipeline renders."""

from __future__ import annotations

import dataclasses
from typing import Any

from pixel_reasoner_jax.trajectory import OperationRecord


@dataclasses.dataclass(frozen=True)
class Draft:
    """A written trajectory, before it is rendered: what is stored on disk.

    Attributes:
      query_id, question, reference: of the query.
      kind: the template that made it.
      messages: the whole conversation; images are PIL images, mistaken calls have `train` false.
      operations: what was executed, in order.
      attributes: of the seed.
    """

    query_id: str
    question: str
    reference: str | list[str]
    kind: str
    messages: list[dict[str, Any]]
    operations: tuple[OperationRecord, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
