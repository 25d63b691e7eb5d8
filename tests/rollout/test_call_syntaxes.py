"""Turns in other syntaxes of calls: where they end, what follows, and what the model is told."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from pixel_reasoner_jax.operations import Call, make_registry
from pixel_reasoner_jax.processing.pictures import PictureStore
from pixel_reasoner_jax.rollout import Limits, Policy
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.rollout.sampling import SamplingSettings, with_stop_strings
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Source


def begun(processor, names, syntax, prefix=""):
    registry = make_registry(names, syntax)
    query = {"id": "q", "question": "Where?", "answer": "4", "images": [Image.new("RGB", (400, 300), (200, 10, 10))]}
    prompt = Prompt.build(query, processor, registry, None, PictureStore(), prefix=prefix)
    sampling = with_stop_strings(SamplingSettings(), registry.stop_strings)
    return registry, Episode(prompt, 0, processor, registry, Limits(), sampling)


def sample(episode, processor, text: str) -> bool:
    """Samples a text, a few tokens at a time; whether a stop string has ended the turn."""
    ids = np.array(processor.tokenizer.encode(text, add_special_tokens=False), np.int32)
    for start in range(0, len(ids), 3):
        part = ids[start : start + 3]
        if episode.add_sampled(part, *np.zeros((2, len(part)), np.float32)):
            return True
    return False


def test_stop_strings_do_not_count_in_a_prefix(world):
    """A sub-group's prefix is followed too, where a syntax has stop strings."""
    prefix = "I do not write <code>a</code>"
    registry, episode = begun(world[1], ("rotate_image",), "code", prefix)
    text = f"> but this:\n{registry.write(Call('rotate_image', {'angle': 90, 'target_image': 1}))}"
    assert sample(episode, world[1], f"{text} and more.")
    episode.end_turn(stopped=True)
    assert episode.messages[-1]["content"][0]["text"].startswith(prefix + text)
    assert "more" not in episode.messages[-1]["content"][0]["text"]


@pytest.mark.parametrize("syntax", ["tags", "action", "code"])
def test_a_call_ends_its_turn(world, syntax):
    processor = world[1]
    registry, episode = begun(processor, ("rotate_image",), syntax)
    call = Call("rotate_image", {"angle": 90, "target_image": 1})
    text = f"It lies on its side.\n{registry.write(call)}"
    assert sample(episode, processor, f"{text} I see a 4, or imagine it.")
    made = episode.end_turn(stopped=True)
    assert made == call
    assert episode.messages[-1]["content"][0]["text"].startswith(text)
    assert "imagine" not in episode.messages[-1]["content"][0]["text"]
    assert episode.observe(made, episode.execute(made))
    assert episode.operations[0].succeeded and episode.operations[0].sizes
    sample(episode, processor, "\\boxed{4}")
    assert episode.end_turn(stopped=True) is None and episode.ended == Ended.ANSWER
    trajectory = episode.trajectory()
    assert (trajectory.train == (trajectory.source == Source.SAMPLED)).all()
    # The turn was not closed by a sampled token: what follows it closes it.
    observed = trajectory.tokens[trajectory.source == Source.OBSERVATION]
    assert observed[0] == processor.im_end
    assert "Rotate" in trajectory.messages[0]["content"][0]["text"]


def test_frames_that_were_found_are_recorded(world):
    """Rewards of a method may ask which they were, and what is stored tells it too."""
    registry = make_registry(("frame_at_time",), "action")
    frames = [Image.new("RGB", (120, 90), (number, 0, 0)) for number in range(40)]
    query = {"id": "v", "question": "When?", "answer": "4", "video": frames, "fps": 2.0}
    prompt = Prompt.build(query, world[1], registry, None, PictureStore())
    episode = Episode(prompt, 0, world[1], registry, Limits(), SamplingSettings())
    record = episode.execute(registry.parse("<action>get frame number at time 00:07</action>")).record
    assert (record.frames, record.succeeded, len(record.sizes)) == ((15,), True, 1)
    stored = json.loads(json.dumps(dataclasses.asdict(record)))
    assert OperationRecord.from_dict(stored) == record
    del stored["frames"]  # of an earlier version
    assert OperationRecord.from_dict(stored).frames == ()


def test_text_alone_may_end_as_ever(world):
    processor = world[1]
    _, episode = begun(processor, ("rotate_image",), "action")
    assert not sample(episode, processor, "<action>output answer: 4")
    assert sample(episode, processor, "</action>")
    assert episode.end_turn(stopped=True) is None and episode.ended == Ended.ANSWER


def test_an_unreadable_call_is_an_observation(world):
    processor = world[1]
    _, episode = begun(processor, ("rotate_image",), "action")
    sample(episode, processor, "<action>look <|image_pad|> there</action>")
    made = episode.end_turn(stopped=True)
    observation = episode.execute(made)
    assert "none of the actions" in observation.record.error and "rotate by angle degrees" in observation.record.error
    assert episode.observe(made, observation) and len(episode.media) == 1


def test_a_policy_ends_turns_where_its_syntax_does(world):
    model, processor = world[:2]
    sampling = SamplingSettings(0.5, stop_strings=("END",), later=SamplingSettings(0.1, stop_strings=("END",)))
    policy = Policy(model, processor, registry=make_registry(("swap_tiles",), "code"), slots=2)
    settings = policy.rollout_settings(1, 0, sampling, 2)
    assert settings.sampling.stop_strings == ("END", "</code>") and settings.sampling.turn(1).temperature == 0.1
    policy.registry = make_registry()
    assert policy.rollout_settings(1, 0, sampling, 2).sampling is sampling
