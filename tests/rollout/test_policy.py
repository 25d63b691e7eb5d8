"""Rollouts against one full forward over the finished trajectory, and what they promise at their limits.

A random model hardly ever writes a call. `eager` makes it end turns often and reads a call, right or wrong, into the
first two turns; tokens, log-probabilities, operations and the cache stay the real ones.
"""

import io

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy.special import log_softmax

from data_pipeline.records import RecordSource, write_records
from data_pipeline.seed import Seed
from pixel_reasoner_jax.operations import Call, CropImage, OperationError, Registry, Result, default_registry
from pixel_reasoner_jax.processing import Picture, PictureStore
from pixel_reasoner_jax.rollout import (
    EpisodeEnd,
    Limits,
    OperationRun,
    Policy,
    SamplingSettings,
    TurnText,
    query_messages,
)
from pixel_reasoner_jax.rollout.episode import Episode
from pixel_reasoner_jax.rollout.prompt import Prompt
from pixel_reasoner_jax.trajectory import Ended, Source
from tests.forward import full_logits


def right(text: str) -> Call:
    """A crop of a size and place that depend on what was written."""
    rng = np.random.default_rng(len(text))
    x, y, w, h = rng.uniform(0.0, 0.5, 2).tolist() + rng.uniform(0.1, 0.45, 2).tolist()
    return Call("crop_image_normalized", {"bbox_2d": [x, y, x + w, y + h], "target_image": 1})


LATER_COOLER = SamplingSettings(1.0, later=SamplingSettings(0.9))


class Eager(Registry):
    """Reads a call into every turn; every third one is malformed."""

    def parse(self, text):
        return OperationError("no such thing <|image_pad|>") if len(text) % 3 == 0 else right(text)


@pytest.fixture
def eager(world) -> Policy:
    model, processor = world
    often = {*processor.stop_tokens, *range(260, 330)}
    processor = _with(processor, stop_tokens=tuple(often))
    registry = Eager(default_registry()._operations)
    return Policy(
        model, processor, registry=registry, limits=Limits(2, max_response_tokens=200), slots=16, decode_steps=8
    )


def _with(processor, **changes):
    copy = object.__new__(type(processor))
    copy.__dict__.update(processor.__dict__ | changes)
    return copy


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def full_logprobs(policy, trajectory):
    """Log-probabilities of the sampled tokens from one forward over the whole trajectory."""
    model = nnx.merge(policy.runtime.graphdef, policy.params)
    logits = full_logits(model, policy.processor, trajectory)[:-1]
    logits[:, policy.processor.forbidden_tokens] = -np.inf
    tempered = log_softmax(logits / trajectory.temperatures[1:, None], -1)
    untempered = log_softmax(logits, -1)
    where = np.arange(len(tempered)), trajectory.tokens[1:]
    return tempered[where], untempered[where]


def executed(trajectory) -> int:
    """Calls that were answered with an observation: all but one that a limit refused."""
    return sum(message["role"] == "user" for message in trajectory.messages[2:])


def test_one_forward_reproduces_the_sampled_logprobs(eager, queries):
    groups = eager.rollout(queries[:3], samples=4, seed=3, sampling=LATER_COOLER)
    trajectories = [trajectory for group in groups for trajectory in group]
    assert max(map(executed, trajectories)) == 2 and any(len(trajectory.media) > 1 for trajectory in trajectories)
    assert len({media.grid for trajectory in trajectories for media in trajectory.media}) > 2
    for trajectory in trajectories:
        sampled = trajectory.source[1:] == Source.SAMPLED
        np.testing.assert_array_equal(trajectory.train, trajectory.source == Source.SAMPLED)
        expected, untempered = full_logprobs(eager, trajectory)
        np.testing.assert_allclose(trajectory.logprobs[1:][sampled], expected[sampled], atol=1e-4)
        np.testing.assert_allclose(trajectory.policy_logprobs[1:][sampled], untempered[sampled], atol=1e-4)
        assert not trajectory.logprobs[1:][~sampled].any() and not trajectory.policy_logprobs[1:][~sampled].any()
        later = [t for t, s in zip(trajectory.temperatures, trajectory.source, strict=True) if s == Source.SAMPLED]
        assert later[0] == 1.0 and (executed(trajectory) == 0 or later[-1] == np.float32(0.9))


def test_one_forward_reproduces_what_follows_a_slow_video(eager):
    """Its last frames are 40 positions after its first ones, which have no more than 8 tokens."""
    frames = [Image.new("RGB", (90, 60), (40 * n, 0, 90)) for n in range(4)]
    query = {"id": "slow", "question": "What is it?", "answer": "1", "video": frames, "fps": 0.1}
    eager.registry = Eager([CropImage()])  # a short prompt, for which all is compiled
    [group] = eager.rollout([query], samples=12, seed=4)
    for trajectory in group[:4]:
        prompt, pads = int((trajectory.source == Source.PROMPT).sum()), trajectory.tokens == eager.processor.video_pad
        positions, _ = eager.processor.positions(trajectory.tokens, trajectory.media)
        assert positions[0, prompt] > positions[0, pads].max() == positions[0, pads].min() + 40
        sampled = trajectory.source[1:] == Source.SAMPLED
        expected, _ = full_logprobs(eager, trajectory)
        np.testing.assert_allclose(trajectory.logprobs[1:][sampled], expected[sampled], atol=1e-4)


def test_a_response_does_not_depend_on_its_company(eager, queries):
    together = eager.rollout(queries[:4], samples=4, seed=5)
    alone = eager.rollout(queries[2:3], samples=2, seed=5)
    reversed_order = eager.rollout(queries[3::-1], samples=4, seed=5)
    for sample in range(2):
        np.testing.assert_array_equal(together[2][sample].tokens, alone[0][sample].tokens)
        np.testing.assert_allclose(together[2][sample].logprobs, alone[0][sample].logprobs, atol=1e-4)
    for a, b in zip(together, reversed_order[::-1], strict=True):
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
    assert not np.array_equal(together[0][0].tokens, eager.rollout(queries[:1], samples=1, seed=6)[0][0].tokens)


def test_the_trajectory_is_the_conversation(eager, queries):
    """Prompt, observations and media are those of the messages, in order; what was sampled is as written."""
    processor, eager.policy_version = eager.processor, 7
    for trajectory in eager.rollout(queries[:2], samples=4, seed=1)[0]:
        assert trajectory.policy_version == 7
        prompt = trajectory.tokens[trajectory.source == Source.PROMPT]
        np.testing.assert_array_equal(prompt, processor.render(trajectory.messages[:2], generation_prompt=True).tokens)
        observations = [message for message in trajectory.messages[2:] if message["role"] == "user"]
        expected = [processor.render_continuation(message) for message in observations]
        tokens = np.concatenate([part.tokens for part in expected]) if expected else np.zeros(0, np.int32)
        np.testing.assert_array_equal(trajectory.tokens[trajectory.source == Source.OBSERVATION], tokens)
        assert [m.grid for m in trajectory.media[1:]] == [m.grid for part in expected for m in part.media]
        pads = np.isin(trajectory.tokens, processor.placeholder_tokens)
        assert not pads[trajectory.source == Source.SAMPLED].any()
        assert pads.sum() == sum(media.tokens for media in trajectory.media)
        for record, message in zip(trajectory.operations, observations, strict=False):  # one more may be refused
            images = [item for item in message["content"] if item["type"] == "image"]
            assert record.succeeded == bool(images) and len(record.sizes) == len(images)
            if not record.succeeded:
                assert message["content"][0]["text"] == f"\nExecution error:\n{record.error}\n"


def test_limits_are_kept_and_named(eager, queries):
    seen = set()
    cases = [
        Limits(max_operations=1, max_response_tokens=400),
        Limits(max_operations=4, max_response_tokens=70),
        Limits(max_operations=9, max_response_tokens=4000, max_images=1, max_length=500),
        Limits(max_operations=9, max_response_tokens=4000, max_length=170),
    ]
    for limits in cases:
        eager.limits = limits
        for group in eager.rollout(queries[:2], samples=4, seed=2):
            for trajectory in group:
                seen.add(trajectory.ended)
                response = int((trajectory.source != Source.PROMPT).sum())
                assert response <= limits.max_response_tokens
                assert limits.max_length is None or len(trajectory.tokens) <= limits.max_length
                assert executed(trajectory) <= limits.max_operations
                # The call that a limit refuses was made: it is counted, as one that failed.
                refused = trajectory.operations[executed(trajectory) :]
                assert len(refused) <= 1 and not any(record.succeeded for record in refused)
                if trajectory.ended in (Ended.OPERATIONS, Ended.IMAGES):
                    assert refused[0].error == f"refused: {trajectory.ended}" and not trajectory.recovered
                assert len(trajectory.media) - 1 <= limits.max_images
                # An observation is there whole or not at all: its placeholders are those of its media.
                eager.processor.positions(trajectory.tokens, trajectory.media)
    assert {Ended.OPERATIONS, Ended.TOKENS, Ended.IMAGES, Ended.LENGTH} <= seen


def test_a_prompt_without_room_does_not_stop_the_others(policy, queries):
    few, many = queries[0], {**queries[1], "question": "Which digit? " * 200}
    policy.limits = Limits(max_operations=1, max_response_tokens=40, max_length=200)
    alone, _ = policy.rollout([few, queries[1]], samples=2, seed=3)
    together, full = policy.rollout([few, many], samples=2, seed=3)
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first.tokens, second.tokens)
    for trajectory in full:
        assert trajectory.ended == Ended.LENGTH and trajectory.source.max() == Source.PROMPT
    assert policy.rollout([many], samples=1)[0][0].ended == Ended.LENGTH


def test_placeholders_and_unused_ids_are_never_sampled(policy, queries):
    """Even when the model wants nothing else."""
    params = jax.tree.map(lambda leaf: leaf, policy.params)
    embedding = params["language"]["embedding"]
    forbidden = policy.processor.forbidden_tokens
    assert {policy.processor.image_pad, policy.processor.video_pad, policy.runtime.config.vocab_size - 1} <= set(
        forbidden.tolist()
    )
    policy.params = params
    embedding[...] = embedding[...].at[forbidden].mul(100.0)  # tied: their logits now dwarf all others
    for temperature in (0.0, 1.0):
        for trajectory in policy.rollout(queries[:1], samples=4, temperature=temperature)[0]:
            assert not np.isin(trajectory.tokens[trajectory.source == Source.SAMPLED], forbidden).any()
    embedding[...] = embedding[...].at[forbidden].mul(0.01)


def test_videos_and_text_only(world):
    model, processor = world
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)) for _ in range(7)]
    video = {"id": "v", "question": "What moves?", "answer": "a", "video": frames}
    policy = Policy(model, processor, limits=Limits(2, 40), slots=4)
    trajectory = policy.rollout([video], samples=2, seed=0)[0][1]
    assert trajectory.media[0].kind == "video" and "select_frames" in trajectory.messages[0]["content"][0]["text"]
    sampled = trajectory.source[1:] == Source.SAMPLED
    expected, _ = full_logprobs(policy, trajectory)
    np.testing.assert_allclose(trajectory.logprobs[1:][sampled], expected[sampled], atol=1e-4)
    plain = Policy(model, processor, limits=Limits(2, 40), slots=4, text_only=True)
    text = plain.rollout([{"id": "t", "question": "1 + 1?", "answer": "2"}], samples=1)[0][0]
    assert text.messages[0]["content"][0]["text"] == "You are a helpful assistant." and not text.media
    assert "Please think step by step" in text.messages[1]["content"][0]["text"]


def test_events_tell_the_whole_story(eager, queries):
    events = []
    [[trajectory, _]] = eager.rollout(queries[:1], samples=2, seed=4, on_event=events.append)
    mine = [event for event in events if event.sample == 0]
    assert isinstance(mine[-1], EpisodeEnd) and mine[-1].trajectory.tokens.tolist() == trajectory.tokens.tolist()
    assert [event.record for event in mine if isinstance(event, OperationRun)] == trajectory.operations
    turns = [message for message in trajectory.messages if message["role"] == "assistant"]
    for number, message in enumerate(turns):
        text = "".join(event.text for event in mine if isinstance(event, TurnText) and event.turn == number)
        assert text == message["content"][0]["text"]


@pytest.mark.parametrize(
    "query,message",
    [
        ({"question": "?", "images": []}, r"a query with the keys \['question', 'images'\]: it has no id"),
        ({"id": 0}, "query 0: it has no question"),
        ({"id": "q", "question": "?", "image": "/x.png"}, "query 'q': unknown key 'image'; did you mean 'images'"),
        ("q", "a query is a mapping with .* and queries are a list of them; got 'q'"),
    ],
)
def test_what_is_no_query_says_why(policy, query, message):
    with pytest.raises(ValueError, match=message):
        policy.rollout([query])


def test_queries_are_a_list(policy, queries):
    with pytest.raises(ValueError, match="queries are a list of them; got 'id'"):
        policy.rollout(queries[0])


def test_frames_of_a_query_have_its_rate(world, tmp_path):
    """As in a message that says the same."""
    processor = world[1]
    frames = [Image.new("RGB", (60, 90), (n, n, n)) for n in range(5)]
    seed = Seed("v", "What moves?", "a", video=frames, fps=0.25)
    write_records(tmp_path, "query", [seed.query()])
    for query in (seed.query(), RecordSource(tmp_path, "query")[0]):
        built = Prompt.build(query, processor, None, None, PictureStore())
        written = processor.render(query_messages(query, None), generation_prompt=True)
        assert built.rendered.media[0].second_per_grid == written.media[0].second_per_grid == 8.0
        np.testing.assert_array_equal(built.positions, processor.positions(written.tokens, written.media)[0])
    slow = Prompt.build({**seed.query(), "fps": None}, processor, None, None, PictureStore())
    assert slow.rendered.media[0].second_per_grid == 1.0


def test_no_samples_is_an_error(policy, queries):
    with pytest.raises(ValueError, match="samples"):
        policy.rollout(queries[:1], samples=0)


def test_an_image_that_the_processor_refuses_is_an_error_to_the_model(world, queries):
    class Sliver(CropImage):
        def run(self, arguments, state):
            return Result([Image.new("RGB", (1, 500))], "crop", len(state.images) + 1)

    registry = Registry([Sliver()])
    processor = world[1]
    prompt = Prompt.build(queries[0], processor, registry, None, PictureStore())
    episode = Episode(prompt, 0, processor, registry, Limits(), SamplingSettings())
    refused = episode.execute(right(""))
    assert "more than 200 times" in refused.record.error and not refused.images
    assert refused.record.error in refused.message["content"][0]["text"]
    episode._registry = default_registry()
    accepted = episode.execute(right(""))  # the refused image has taken no number
    assert accepted.record.succeeded and len(accepted.images) == 1 and len(accepted.state.images) == 2


def test_boxes_in_pixels_are_of_the_sizes_that_are_printed(world):
    """Of the query's images, of crops, of a video's frames and of those selected."""
    processor, registry = world[1], default_registry(padding=0.0)

    def acts(query, *calls):
        prompt = Prompt.build(query | {"id": 0, "question": "?"}, processor, registry, None, PictureStore())
        episode = Episode(prompt, 0, processor, registry, Limits(), SamplingSettings())
        for name, arguments in calls:
            observation = episode.execute(Call(name, arguments))
            assert observation.record.succeeded, observation.record.error
            episode._state = observation.state
            yield observation.record, observation.message["content"][0]["text"]

    def zoom(name, box, target):
        return name, {"bbox_2d": box, "target_image": target}

    assert processor.resized((900, 600)) == (140, 84) and processor.resized((450, 600), "crop") == (56, 84)
    image = {"images": [Image.new("RGB", (900, 600))]}
    left = zoom("crop_image", [0, 0, 70, 84], 1)
    (first, text), (second, _) = acts(image, left, zoom("zoom_in", [28, 0, 56, 42], 2))
    assert first.boxes == ((0, 0, 450, 600),) and text == "\nHere is the cropped image (Image Size: 56x84):"
    assert second.boxes == ((225, 0, 450, 300),)

    film = {"video": [Image.new("RGB", (600, 400), (n, n, n)) for n in range(4)]}
    width, height = processor.resized((600, 400), "video")
    across, down = processor.resized((600, 400), "frame")
    (first, _), (_, text), (third, _) = acts(
        film,
        zoom("crop_image_normalized", [0, 0, width / 2, height], 2),
        ("select_frames", {"target_frames": [4]}),
        zoom("crop_image_normalized", [0, down / 2, across, down], 2),
    )
    assert first.boxes == ((0, 0, 300, 400),) and f"(Frame Size: {across}x{down}, Numbered 2 to 2)" in text
    assert third.boxes == ((0, 200, 600, 400),) and (width, height) != (across, down)


def test_an_operation_may_return_pil_images(world, queries):
    class Invert(CropImage):
        def run(self, arguments, state):
            image = state.images[0].load()
            image.paste("red", (0, 0, *image.size))
            return Result([image.convert(arguments["mode"])], "crop", len(state.images) + 1)

    registry, processor = Registry([Invert()]), world[1]
    prompt = Prompt.build(queries[0], processor, registry, None, PictureStore())
    episode = Episode(prompt, 0, processor, registry, Limits(), SamplingSettings())
    done = episode.execute(Call("zoom_in", {"mode": "CMYK"}))
    [image] = done.images
    assert done.record.succeeded and isinstance(image, Picture) and done.message["content"][1]["image"] is image
    assert done.state.images == [prompt.state.images[0], image]
    assert image.load().getpixel((0, 0)) == (255, 0, 0) != prompt.state.images[0].load().getpixel((0, 0))
    failed = episode.execute(Call("zoom_in", {"mode": "F"}))
    assert "floating-point pixels" in failed.record.error and not failed.images and len(failed.state.images) == 1


def test_pixels_of_a_rollout_are_bounded(eager, queries):
    """Responses do not depend on how much is kept; what they hold costs no pixels, whatever their number."""
    queries = [{**query, "images": [png(image) for image in query["images"]]} for query in queries[:2]]
    peaks, tokens = [], []
    for samples, bound in ((1, 2**31), (8, 2**31), (8, 100_000), (8, 0)):
        eager.store = PictureStore(bound)
        eager.runtime.forget_table()  # or whether a query's image is prepared would depend on who is first
        groups = eager.rollout(queries, samples=samples, seed=3)
        peaks.append(eager.store.peak_bytes)
        tokens.append([trajectory.tokens for group in groups for trajectory in group])
        items = [i for g in groups for t in g for m in t.messages for i in m["content"] if i["type"] == "image"]
        assert len(items) > 2 * samples and all(isinstance(item["image"], Picture) for item in items)
        assert all(callable(media.source) for group in groups for t in group for media in t.media)
    assert peaks[0] == peaks[1] and peaks[2] <= 100_000 and peaks[3] == 0
    for large, small, none in zip(*tokens[1:], strict=True):
        np.testing.assert_array_equal(large, small)
        np.testing.assert_array_equal(large, none)
