"""The reward of a response: whether its answer is right, and the curiosity terms that keep operations in use."""

from pixel_reasoner_jax.rewards.curiosity import VARIANTS, RewardTerms, reward_terms, shaped_reward
from pixel_reasoner_jax.rewards.extraction import extract_answer, marked_answer
from pixel_reasoner_jax.rewards.pool import AnswerPool, answer_reward, score_trajectories

__all__ = [
    "VARIANTS",
    "AnswerPool",
    "RewardTerms",
    "answer_reward",
    "extract_answer",
    "marked_answer",
    "reward_terms",
    "score_trajectories",
    "shaped_reward",
]
