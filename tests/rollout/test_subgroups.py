"""Sub-groups of responses: how they are asked, and that what is not different about them is as without."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.config import ConfigError, load_config
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rollout.alterations import change_levels, masked, noisy
from pixel_reasoner_jax.rollout.dialogue import TurnText
from pixel_reasoner_jax.rollout.given import clean_media
from pixel_reasoner_jax.rollout.subgroups import Subgroup, Subgroups, altered, gold_response, settings_of
from pixel_reasoner_jax.trajectory import Ended, Source


def ask(policy, queries, subgroups, samples, seed=3, on_event=None):
    """All responses by query and column."""
    parts = [
        part
        for subgroup in subgroups.entries
        for number, query in enumerate(queries)
        for part in subgroups.parts(subgroup, number, query, [])
    ]

    def per_query(common, query):
        return settings_of(common, query, policy.prompt)

    with policy.stream([part.query for part in parts], samples, seed, per_query=per_query, on_event=on_event) as stream:
        found = {(parts[number].number, one.sample): one for number, one in stream}
    return [[found[number, column] for column in range(len(subgroups.labels))] for number in range(len(queries))]


def subgroups_of(*entries, **settings):
    overrides = [(f"rollout.subgroups.{label}.{key}", str(value)) for label, keys in entries for key, value in keys]
    overrides += [(f"rollout.{key}", str(value)) for key, value in settings.items()]
    return Subgroups.of(load_config("rl_qwen2_5_vl_7b", overrides).rollout)


def test_columns_have_the_tokens_of_a_rollout_without_subgroups(policy, queries):
    """Two sub-groups that are asked alike are one."""
    subgroups = Subgroups([Subgroup("a", 1), Subgroup("b", 2)])
    found = ask(policy, queries[:2], subgroups, 2)
    alone = policy.rollout(queries[:2], 3, 3)
    for mine, theirs in zip(found, alone, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert one.tokens.tolist() == other.tokens.tolist() and one.sample == other.sample
            np.testing.assert_array_equal(one.logprobs, other.logprobs)


def test_a_prefix_is_the_responses_and_not_sampled(policy, queries):
    subgroups, events = Subgroups([Subgroup("looks", 2, prefix="Let me zoom", guidelines="Look.")]), []
    [group] = ask(policy, queries[:1], subgroups, 2, on_event=events.append)
    prefix = policy.processor.encode("Let me zoom")
    for one in group:
        given = one.source == Source.GIVEN
        assert one.tokens[given].tolist() == prefix.tolist() and not one.train[given].any()
        first = np.flatnonzero(given)[0]
        assert (one.source[:first] == Source.PROMPT).all() and one.source[first + len(prefix)] == Source.SAMPLED
        assert one.messages[2]["content"][0]["text"].startswith("Let me zoom")
        told = [event for event in events if isinstance(event, TurnText) and event.sample == one.sample]
        first_turn = [event.text for event in told if event.turn == 0]
        assert "".join(first_turn) == one.messages[2]["content"][0]["text"]
        assert one.messages[1]["content"][-1]["text"].endswith("Look.")
        whole = policy.processor.render(one.messages[:2], generation_prompt=True).tokens
        assert one.tokens[: len(whole)].tolist() == whole.tolist()


def test_a_message_follows_the_first_answer_once(policy, queries, monkeypatch):
    policy = with_stops(policy, monkeypatch)
    [group] = ask(policy, queries[:1], Subgroups([Subgroup("again", 3, follow_up="Are you sure?")]), 3)
    for one in group:
        asked = [m for m in one.messages if m["content"][0].get("text") == "Are you sure?"]
        turns = [m for m in one.messages if m["role"] == "assistant"]
        assert len(asked) <= 1 and not one.operations
        if one.ended == Ended.ANSWER and len(turns) > 1:
            assert asked
    assert any(m["content"][0].get("text") == "Are you sure?" for one in group for m in one.messages)


def with_stops(policy, monkeypatch):
    """Turns of six tokens, which then end as if the model had ended them."""
    from pixel_reasoner_jax.rollout.episode import Episode

    end_turn = Episode.end_turn
    monkeypatch.setattr(Episode, "turn_room", property(lambda self: min(self.room, 6 - len(self._turn_tokens))))
    monkeypatch.setattr(Episode, "end_turn", lambda self, stopped: end_turn(self, True))
    return policy


def test_which_responses_of_the_data_are_given(policy, queries):
    """One that can be trained on, whole; an empty cell of a table is none."""
    subgroups = Subgroups([Subgroup("gold", 1, response=gold_response)])

    def given(text, policy=policy):
        parts = subgroups.parts(subgroups.entries[0], 0, {**queries[0], "gold_response": text}, [])
        return parts[0].given(policy, 0) if parts else None

    one = given("It is <|im_end|>\\boxed{3}.")
    assert one.response == "It is <|im_end|>\\boxed{3}." and (one.source != Source.SAMPLED).all()
    call = '<tool_call>\n{"name": "zoom_in", "arguments": {}}\n</tool_call>'
    for none in (None, "", " \n", float("nan"), "so " * 200, call):
        assert given(none) is None
    policy.limits = dataclasses.replace(policy.limits, max_operations=0)
    assert given(call) is None
    for wrong in (5, ["It is 3."], {"text": "3"}):
        with pytest.raises(UserError, match="query '.*': the response of sub-group 'gold' must be a text, got"):
            given(wrong)


def test_noise_is_the_same_for_all_samples_and_is_taken_away_for_updates(policy, queries):
    subgroups = Subgroups([Subgroup("noisy", 2, images=noisy, strength=0.3, clean=True), Subgroup("clean", 1)])
    [group] = ask(policy, queries[:1], subgroups, 2)
    pixels = [one.media[0].pixels for one in group]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert np.abs(pixels[0].astype(int) - pixels[2]).mean() > 10
    subgroups.clean([group], policy.processor)
    assert all((one.media[0].pixels == pixels[2]).all() for one in group)
    assert group[0].media[0] is group[1].media[0]


def test_crops_of_a_noisy_picture_are_noisy_and_their_clean_ones_are_of_the_clean():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    picture = PictureStore().open(image)
    changed = altered(picture, noisy, 0.2, (0, "q"))
    crop = changed.crop((10, 5, 50, 45)).resize((20, 20))
    assert np.array(crop.load()).shape == (20, 20, 3)
    clean = crop.replaced()
    np.testing.assert_array_equal(clean.load(), picture.crop((10, 5, 50, 45)).resize((20, 20)).load())
    assert clean.key == picture.crop((10, 5, 50, 45)).resize((20, 20)).key != crop.key
    assert picture.replaced() is picture
    again = altered(picture, noisy, 0.2, (0, "q"))
    assert again.key == changed.key != altered(picture, noisy, 0.2, (1, "q")).key


def test_changes_of_images():
    image, generator = Image.new("RGB", (30, 29), (255, 255, 255)), np.random.default_rng
    pixels = np.array(masked(image, 0.5, generator(1)))
    squares = [pixels[y : y + 14, x : x + 14] for y in (0, 14, 28) for x in (0, 14, 28)]
    assert all(len(np.unique(square)) == 1 for square in squares)
    assert {int(square.max()) for square in squares} == {0, 255}
    assert np.array(masked(image, 1.0, generator(1))).max() == 0
    large, sizes = Image.new("RGB", (3, 300), (51, 102, 204)), []
    whole = np.float32([0.2, 0.4, 0.8]) + np.float32(0.1) * generator(3).standard_normal((300, 3, 3), np.float32)
    np.testing.assert_array_equal(noisy(large, 0.1, generator(3)), (whole.clip(0, 1) * 255).round())
    change_levels(large, lambda levels: sizes.append(levels.shape) or levels)
    assert max(sizes) <= (64, 3, 3) and sum(size[0] for size in sizes) == 300
    grey = Image.new("RGB", (200, 100), (128, 128, 128))
    assert np.std(np.array(noisy(grey, 0.1, generator(2))) / 255.0) == pytest.approx(0.1, rel=0.03)


def test_without_operations_the_first_call_ends_a_response(policy, queries):
    subgroups = Subgroups([Subgroup("forced", 1), Subgroup("forbidden", 1, operations=False)])
    parts = [*subgroups.parts(subgroups.entries[1], 0, queries[0], [])]
    settings = parts[0].settings(policy.rollout_settings(1, 0, None, 4), policy.prompt)
    assert settings.limits == dataclasses.replace(policy.limits, max_operations=0)
    assert (settings.first_sample, settings.samples) == (1, 1)


def test_a_query_may_be_asked_in_other_words_or_not_at_all(queries):
    """One question for each response of another sub-group."""

    def caption_alone(query, earlier):
        if query["id"] == "none":
            return None
        return [{"id": query["id"], "question": f"{one}?", "answer": "1"} for one in earlier]

    subgroups = Subgroups([Subgroup("main", 2), Subgroup("caption", 2, query=caption_alone, needs="main")])
    assert [[one.label for one in stage] for stage in subgroups.stages()] == [["main"], ["caption"]]
    one, two = subgroups.parts(subgroups.entries[1], 5, {"id": "a", "question": "q"}, ["x", "y"])
    assert (one.number, one.first, one.samples, one.query["question"]) == (5, 2, 1, "x?") and two.first == 3
    assert not subgroups.parts(subgroups.entries[1], 0, {"id": "none", "question": "q"}, ["x", "y"])
    with pytest.raises(UserError, match="returns 3 queries for 2 responses"):
        subgroups.parts(subgroups.entries[1], 0, {"id": "a", "question": "q"}, "xyz")
    for wrong, said in ((5, "5"), (iter("ab"), "<str_")):
        wrong = Subgroup("wrong", 1, query=lambda query, earlier, wrong=wrong: wrong)
        with pytest.raises(UserError, match=f"query of sub-group 'wrong' returns {said}.* for 1 responses: return one"):
            Subgroups([wrong]).parts(wrong, 0, queries[0], [])
    wrong = Subgroup("wrong", 1, query=lambda query, earlier: {"id": "a"})
    with pytest.raises(UserError, match="query of sub-group 'wrong' is .*: query 'a': it has no question"):
        Subgroups([wrong]).parts(wrong, 0, queries[0], [])


def test_settings_that_do_not_go_together_are_named():
    assert subgroups_of().are_alike and not subgroups_of(("a", [("samples", 8), ("prefix", "x")])).are_alike
    with pytest.raises(ConfigError, match="rollout.samples is 8, but the sub-groups .* have 7 responses"):
        subgroups_of(("a", [("samples", 4)]), ("b", [("samples", 3)]))
    with pytest.raises(ConfigError, match="subgroups.b.needs is 'a': it must be the label of a sub-group"):
        subgroups_of(("a", [("samples", 4), ("needs", "b")]), ("b", [("samples", 4), ("needs", "a")]))
    with pytest.raises(ConfigError, match="subgroups.a.needs is 'c'"):
        subgroups_of(("a", [("samples", 8), ("needs", "c")]))
    found = subgroups_of(("b", [("samples", 4)]), ("a", [("samples", 4), ("needs", "b")]))
    assert [[one.label for one in stage] for stage in found.stages()] == [["b"], ["a"]]
    assert found.labels.tolist() == ["a"] * 4 + ["b"] * 4
    with pytest.raises(UserError, match="unknown change of images|one of 'as_they_are'"):
        subgroups_of(("a", [("samples", 8), ("images", "blurred")]))
    found = subgroups_of(("a", [("samples", 4), ("compared", "x")]), ("b", [("samples", 4), ("counted", False)]))
    assert found.labels.tolist() == ["a"] * 4 + ["b"] * 4 and found.counted.tolist() == [True] * 4 + [False] * 4
    assert [columns.tolist() for columns in found.comparisons()] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_media_without_noise_are_made_once(policy, queries):
    [group] = policy.rollout(queries[:1], 2)
    known = {}
    first, second = (clean_media(one, policy.processor, known) for one in group)
    assert first[0] is second[0] and (first[0].pixels == group[0].media[0].pixels).all()
