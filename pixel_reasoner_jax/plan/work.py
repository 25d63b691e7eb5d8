"""What a chip does in a call of a compiled program, and the least time that its peak rates allow for it."""

from __future__ import annotations

from typing import NamedTuple

from pixel_reasoner_jax.plan.chips import Chip


class Work(NamedTuple):
    """The work of one chip.

    Attributes:
      flops: operations of matrix products.
      memory: bytes read from its memory, and written to it.
      received: bytes that come from other chips.
    """

    flops: float = 0.0
    memory: float = 0.0
    received: float = 0.0

    def plus(self, more: Work, times: float = 1.0) -> Work:
        return Work(*(amount + times * added for amount, added in zip(self, more, strict=True)))

    def floors(self, chip: Chip) -> dict[str, float]:
        """The seconds that each of the chip's rates asks for at least."""
        return {
            "arithmetic": self.flops / chip.flops,
            "memory": self.memory / chip.memory_rate,
            "interconnect": self.received / chip.link_rate,
        }

    def least(self, chip: Chip) -> tuple[str, float]:
        """The rate that bounds the work, and the seconds that it asks for."""
        floors = self.floors(chip)
        bound = max(floors, key=floors.get)
        return bound, floors[bound]
