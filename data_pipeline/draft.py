"""A trajectory as it is stored: what synthesis and importers write, records keep and the input pipeline renders."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pixel_reasoner_jax.trajectory import OperationRecord, Trajectory


@dataclasses.dataclass(frozen=True)
class Draft:
    """A trajectory before it is rendered to tokens: what a data set stores.

    Attributes:
      query_id, question: of the query.
      reference: its accepted answer or answers.
      kind: the template that made it, as `single_pass`.
      messages: the whole conversation. Images are PIL images or encoded files; the assistant's texts have a flag
        `train`, which is False for deliberately mistaken calls.
      operations: the executed calls, in order.
      attributes: what else the seed's source knows; plain values.
    """

    query_id: str
    question: str
    reference: str | list[str]
    kind: str
    messages: list[dict[str, Any]]
    operations: tuple[OperationRecord, ...] = ()
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def policy_version(self) -> int | None:
        """The attribute of this name, where a run has logged the trajectory; see `Trajectory`."""
        version = self.attributes.get("policy_version")
        return version if type(version) is int and version >= 0 else None

    def without_tokens(self) -> Trajectory:
        """The trajectory as pages show it: it has no tokens and no processed media."""
        none = np.zeros(0, np.int32)
        return Trajectory(
            query_id=self.query_id,
            question=self.question,
            reference=self.reference,
            messages=self.messages,
            tokens=none,
            source=none.astype(np.int8),
            train=none.astype(bool),
            media=[],
            operations=list(self.operations),
            policy_version=self.policy_version,
        )
