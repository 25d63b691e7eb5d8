"""The lengths of an episode: the method's, and those of a stored run."""

import json
import types

import numpy as np
import pytest

from data_pipeline.draft import Draft
from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.plan import stored_lengths as stored
from pixel_reasoner_jax.plan.lengths import Group, Turn, draw_group, limited, method_groups
from pixel_reasoner_jax.trajectory import Source


@pytest.fixture
def config():
    config = load_config("rl_qwen2_5_vl_7b")
    config.grpo.queries_per_episode = 96
    return config


def test_the_methods_lengths(config):
    """As docs/performance.md describes them."""
    groups = method_groups(config)
    assert groups == method_groups(config) and len(groups) == 96 and {len(group.responses) for group in groups} == {8}
    lengths = np.concatenate([group.tokens() for group in groups])
    assert 2_800 < lengths.mean() < 3_400 and lengths.max() <= 10_000 and lengths.min() > 450
    turns = [len(response) for group in groups for response in group.responses]
    shares = np.bincount(turns, minlength=6)[1:] / len(turns)
    assert shares[0] == pytest.approx(0.27, abs=0.06) and shares[1] == pytest.approx(0.45, abs=0.06)
    for group in groups:
        assert 300 <= group.images[0] < 2000 and 150 <= group.prompt - group.images[0] < 500
        for response in group.responses:
            *others, last = response
            assert all(turn.observed == turn.images[0] for turn in others) and last.observed == 0


def test_images_keep_to_their_budgets_and_texts_to_the_limits(config):
    config.processor.update(dict(image=(4, 500), crop=(4, 200)))
    groups = method_groups(config)
    assert max(group.images[0] for group in groups) == 500
    assert max(image for group in groups for turns in group.responses for turn in turns for image in turn.images) == 200
    config.rollout.update(dict(max_length=192, max_response_tokens=96))
    small = method_groups(config)
    assert max(max(group.tokens()) for group in small) <= 192 and all(min(map(len, g.responses)) for g in small)
    assert max(max(group.tokens()) - group.prompt for group in small) <= 96
    assert all(turn.sampled >= 1 for group in small for turns in group.responses for turn in turns)


@pytest.mark.parametrize(
    "longest, most, kept",
    [
        (1000, 1000, (Turn(20, 30, (30,)), Turn(10))),
        (160, 1000, (Turn(20, 30, (30,)), Turn(10))),  # exactly
        (159, 1000, (Turn(20, 30, (30,)), Turn(9))),
        (150, 1000, (Turn(20),)),  # the observation would leave no room
        (120, 1000, (Turn(20),)),
        (119, 1000, (Turn(19),)),
        (1000, 55, (Turn(20, 30, (30,)), Turn(5))),
        (100, 1000, ()),
        (90, 1000, ()),
    ],
)
def test_a_response_ends_at_its_limits(longest, most, kept):
    group = Group(100, (60,), ((Turn(20, 30, (30,)), Turn(10)),))
    assert limited(group, longest, most).responses == (kept,)


def test_draws_do_not_depend_on_what_is_drawn_after_them():
    first, second = (draw_group(np.random.default_rng(3), 8) for _ in range(2))
    assert first == second


IMAGE = 99


def draft(runs, images=(), **changes) -> Draft:
    """A stored sample whose tokens are of these (source, count); those at the indices `images` stand for an image."""
    count = sum(number for _, number in runs)
    ids = [IMAGE if index in images else 1 for index in range(count)]
    sampled = [0.0] * sum(number for source, number in runs if source == Source.SAMPLED)
    tokens = {"ids": ids, "source": [[int(source), number] for source, number in runs]}
    tokens |= {name: sampled for name in ("temperatures", "logprobs", "trainer_logprobs")} | changes
    return Draft("q", "?", "!", "rollout", [], (), {"tokens": tokens})


PROMPT, SAMPLED, OBSERVED = Source.PROMPT, Source.SAMPLED, Source.OBSERVATION


def test_a_stored_trajectory_has_the_lengths_of_its_turns():
    """A prompt of ten tokens with images of two and three; an observation of six with one of four."""
    one = draft([(PROMPT, 10), (SAMPLED, 5), (OBSERVED, 6), (SAMPLED, 2)], images={1, 2, 4, 5, 6, 16, 17, 18, 19})
    assert stored.stored_lengths(one, [IMAGE]) == Group(10, (2, 3), ((Turn(5, 6, (4,)), Turn(2)),))
    assert stored.stored_lengths(draft([(PROMPT, 4)]), [IMAGE]) == Group(4, (), ((),))
    for wrong in (draft([(SAMPLED, 3)]), draft([]), draft([(PROMPT, 3)], ids=None), Draft("q", "?", "!", "r", [])):
        with pytest.raises(UserError, match="is no stored sample of a run"):
            stored.stored_lengths(wrong, [IMAGE])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that has stored two trajectories; its processor is a stand-in."""
    (tmp_path / "samples" / "00001").mkdir(parents=True)
    (tmp_path / "samples" / "00002").mkdir()
    drafts = {
        "00001": draft([(PROMPT, 10), (SAMPLED, 5), (OBSERVED, 6), (SAMPLED, 2)], images={1, 2}),
        "00002": draft([(PROMPT, 30), (SAMPLED, 7)]),
    }
    monkeypatch.setattr(stored, "RecordSource", lambda folder, kind: [drafts[folder.name]])
    processor = types.SimpleNamespace(placeholder_tokens=(IMAGE,))
    monkeypatch.setattr(stored.Processor, "from_pretrained", lambda folder: processor)
    return tmp_path


def test_lengths_are_drawn_from_what_a_run_has_stored(run, config):
    groups = stored.run_groups(run, config)
    assert groups == stored.run_groups(run, config) and len(groups) == 96
    assert {(group.prompt, group.images) for group in groups} == {(10, (2,)), (30, ())}
    short, long = (Turn(7),), (Turn(5, 6), Turn(2))
    assert {turns for group in groups for turns in group.responses} == {short, long}
    mixed = [group for group in groups if 0 < group.responses.count(short) < 8]
    assert len(mixed) > 80  # each response by itself
    config.rollout.max_response_tokens = 6
    assert {turns for group in stored.run_groups(run, config) for turns in group.responses} == {(Turn(6),), (Turn(5),)}


def test_a_run_without_samples_is_refused(tmp_path, config):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    with pytest.raises(UserError, match="no trajectories are stored in its folder samples"):
        stored.run_groups(tmp_path, config)
    (tmp_path / "samples").mkdir()
    with pytest.raises(UserError, match="train.log_samples was 0"):
        stored.run_groups(tmp_path, config)
