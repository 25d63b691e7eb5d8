"""Rules that score a response, by name: ours, and those of the harnesses and papers whose figures are compared.

A rule takes the text of the response and the item, and gives a score in [0, 1], or None where the rule leaves the
response out of the figure. Responses are untrusted: a rule neither raises nor takes long, whatever they are.

Our own rules (`choice`, `count`, `answer`, `anls`, `vqa`, `relaxed`) take the answer that a response marks with
`\\boxed{}`, `<answer>` or "Answer:"; without a mark, its last line. The others were written for replies that are the
answer alone. They get what `\\boxed{}` or `<answer>` holds, and the whole reply where there is neither. Where a harness
asks another model in the end, the rule here counts the response as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from pixel_reasoner_jax.evaluation.scorers import choices, counts, mme, mvbench, plain, similarity, vqa
from pixel_reasoner_jax.evaluation.scorers.scorer import Scorer
from pixel_reasoner_jax.named_parts import find_part

__all__ = ["SCORERS", "Scorer", "find_scorer"]

SCORERS: Mapping[str, Scorer] = {
    scorer.name: scorer
    for module in (plain, choices, counts, similarity, vqa, mvbench, mme)
    for scorer in module.SCORERS
}


def find_scorer(name: str) -> Scorer:
    """The scorer of a name, or `module:function` of one's own.

    Raises:
      UserError: there is no such scorer.
    """
    rule = find_part(name, SCORERS, "scorer")
    return rule if isinstance(rule, Scorer) else Scorer(name, rule, "your own", "")
