"""PEARL (arXiv 2511.18437; MiliLab/PEARL): reasoning counts as much as looking is right, by a checklist of questions.

Five responses answer short questions about the image, and five, where one of those is right at all, the query. The
advantages of reasoning are multiplied by min(accuracy of the checklist, 0.5), those of the checklist by 0.1. A query is
learned from where either of both differs. Evidence: a detailed note on the paper [N]; their training code is not
released. Difference: their loss is the sum of two means, ours one mean over the tokens of both.

Command: pixel-reasoner rl --config recipes/pearl
Data: images with questions and answers, and `checklist`: a list of {"q": question, "a": short answer}.
Hardware: that of rl_qwen2_5_vl_7b; not compiled by itself.
Time and result: never run at this size. Published: +9.7 on MathVerse over the base model [A].
"""

import re
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from pixel_reasoner_jax.config import variant
from pixel_reasoner_jax.query import Query
from pixel_reasoner_jax.rewards.answers import judge
from pixel_reasoner_jax.rewards.terms import Responses
from pixel_reasoner_jax.trajectory import Trajectory

MOST_WEIGHT, CHECKLIST_WEIGHT = 0.5, 0.1
_LINE = re.compile(r"^\s{0,8}(\d{1,3})[.):]\s{0,8}(\S.{0,200})$", re.MULTILINE)


def get_config() -> ConfigDict:
    return variant(
        "rl_qwen2_5_vl_7b",
        {
            "workdir": "runs/pearl",
            "operations.names": (),
            "rollout.samples": 10,
            "rollout.max_response_tokens": 2048,
            "rollout.subgroups.checklist.samples": 5,
            "rollout.subgroups.checklist.query": "recipes/pearl:checklist",
            "rollout.subgroups.checklist.guidelines": "Answer each question with its number, one a line, briefly.",
            "rollout.subgroups.checklist.scored": "recipes/pearl:share_right",
            "rollout.subgroups.checklist.compared": "checklist",
            "rollout.subgroups.checklist.counted": False,
            "rollout.subgroups.reasoning.samples": 5,
            "rollout.subgroups.reasoning.needs": "checklist",
            "rollout.subgroups.reasoning.compared": "reasoning",
            "rewards.terms.bonus.weight": 0.0,
            "rewards.terms.penalty.weight": 0.0,
            "rewards.overlong_margin": 1024,
            "train.batch_size": 128,
            "grpo.advantage": "std",
            "grpo.credit": "recipes/pearl:weigh",
            "replay.method": "none",
        },
    )


def checklist(query: Query, earlier: Sequence[Trajectory]) -> Query | None:
    """All questions of the checklist in one; None without any."""
    items = query.get("checklist") or ()
    lines = [f"{number}. {item['q']}" for number, item in enumerate(items, start=1)]
    return {**query, "question": "\n".join(lines), "options": None} if lines else None


def share_right(one: Trajectory, query: Query) -> float:
    """The share of the checklist's questions whose line has the right answer."""
    answers = {int(number): answer.strip() for number, answer in _LINE.findall(one.response[:20_000])}
    right = [judge(answers.get(number, ""), str(item["a"])) for number, item in enumerate(query["checklist"], start=1)]
    return sum(verdict is True for verdict in right) / len(right)


def weigh(responses: Responses, advantages: np.ndarray) -> np.ndarray:
    """The advantages with the weights of both kinds."""
    is_checklist = responses.labels == "checklist"
    weight = np.minimum(responses.correct[:, is_checklist].mean(axis=1, keepdims=True), MOST_WEIGHT)
    return advantages * np.where(is_checklist, CHECKLIST_WEIGHT, weight)
