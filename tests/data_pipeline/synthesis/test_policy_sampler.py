"""Right trajectories of a model: which of its answers are kept, and as what."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from data_pipeline.pipeline import render_trajectory
from data_pipeline.records import RecordSource
from data_pipeline.synthesis import BudgetMediaLoader, TemplateCaptioner
from data_pipeline.synthesis.policy_sampler import PolicySampler
from data_pipeline.synthesis.synthesis import REJECTED_FILE, Synthesis, SynthesisSettings
from data_pipeline.synthesis.templates import SAMPLED_MIX
from pixel_reasoner_jax.operations import Call, MediaState, OperationError, default_registry, error_text, tools_section
from pixel_reasoner_jax.processing import PictureStore
from pixel_reasoner_jax.rollout.prompt import query_messages
from pixel_reasoner_jax.trajectory import Ended, OperationRecord, Trajectory
from tests.data_pipeline.synthesis.seeds import encoded, image_seed, picture, video_seed


def crop(*box, target=1) -> str:
    arguments = {"bbox_2d": list(box), "target_image": target}
    return f"I look.\n<tool_call>\n{json.dumps({'name': 'crop_image', 'arguments': arguments})}\n</tool_call>".replace(
        "crop_image", "crop_image_normalized"
    )


def frames(*numbers) -> str:
    call = json.dumps({"name": "select_frames", "arguments": {"target_frames": list(numbers)}})
    return f"I look.\n<tool_call>\n{call}\n</tool_call>"


RIGHT = "It is \\boxed{a siamese cat}."
GOOD = (crop(0.1, 0.1, 0.6, 0.6), crop(0.2, 0.2, 0.9, 0.9, target=2), RIGHT)


@dataclasses.dataclass
class ScriptedPolicy:
    """Says what a test wrote: for each query a list of responses, each a list of turns; operations are really run."""

    processor: object
    scripts: dict[str, list[tuple[str, ...]]]
    registry: object = dataclasses.field(default_factory=default_registry)
    asked: list[str] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def stream(self, queries, samples, seed, temperature):
        self.asked += [query["id"] for query in queries]
        pairs = [(number, sample) for sample in reversed(range(samples)) for number in reversed(range(len(queries)))]
        yield ((number, self.answer(queries[number], sample)) for number, sample in pairs)

    def answer(self, query, sample) -> Trajectory:
        store = PictureStore()
        images = [store.open(image) for image in query.get("images", ())]
        video = store.open_video(query["video"], 16, None, 0.0) if query.get("video") is not None else None
        state = MediaState.from_query(images, video and video.frames, self.processor.resized)
        tools = tools_section(self.registry.signatures(state))
        messages = query_messages({**query, "images": images, "video": video}, tools)
        operations, ended = [], Ended.TOKENS
        for turn, text in enumerate(self.scripts[query["id"]][sample]):
            messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
            call = self.registry.parse(text)
            if not isinstance(call, Call):
                ended = Ended.ANSWER
                break
            try:
                result = self.registry.execute(call, state)
            except OperationError as error:
                messages.append({"role": "user", "content": [{"type": "text", "text": error_text(str(error))}]})
                operations.append(OperationRecord(turn, call.name, call.arguments, error=str(error)))
                continue
            sizes = tuple(self.processor.resized(image.size, result.kind) for image in result.images)
            content = [{"type": "text", "text": self.registry.observation_text(call, result, sizes)}]
            content += [{"type": "image", "image": image, "kind": result.kind} for image in result.images]
            messages.append({"role": "user", "content": content})
            outcome = {"boxes": tuple(result.boxes), "sizes": sizes, "sources": tuple(result.sources)}
            operations.append(OperationRecord(turn, call.name, call.arguments, **outcome))
        return Trajectory(
            query_id=query["id"],
            question=query["question"],
            reference=query["answer"],
            messages=messages,
            tokens=np.zeros(0, np.int32),
            source=np.zeros(0, np.int8),
            train=np.zeros(0, bool),
            media=[],
            sample=sample,
            operations=operations,
            ended=ended,
        )


def sample(processor, seed, *responses):
    (outcome,) = PolicySampler(ScriptedPolicy(processor, {seed.id: responses}), len(responses)).sample([seed], 0)
    return outcome


def test_the_first_right_answer_is_kept_as_it_was_given(processor):
    """A crop of a crop, in a seed that says nothing about where to look."""
    seed = image_seed(1, cue=())
    draft = sample(processor, seed, (crop(0, 0, 0.5, 0.5), "It is \\boxed{a dog}."), GOOD, (crop(0, 0, 1, 1), RIGHT))
    assert draft.kind == "sampled" and draft.reference == seed.answer
    assert draft.messages[1]["content"][0]["image"] == seed.images[0]  # the very file
    assert (
        "Guidelines" in draft.messages[1]["content"][1]["text"] and "# Tools" in draft.messages[0]["content"][0]["text"]
    )
    turns = [message["content"] for message in draft.messages[2::2]]
    assert [item["text"] for items in turns for item in items] == list(GOOD)
    assert all(item["train"] for items in turns for item in items)
    whole = picture(1)
    (first,), (second,) = (record.boxes for record in draft.operations)
    shown = [message["content"][1]["image"] for message in draft.messages[3::2]]
    assert np.array_equal(shown[0], whole.crop(first)) and np.array_equal(shown[1], whole.crop(first).crop(second))
    assert all(isinstance(image, Image.Image) for image in shown)
    trajectory = render_trajectory(draft, processor)
    trained = processor.tokenizer.decode(trajectory.tokens[trajectory.train])
    assert trained == "".join(f"{turn}<|im_end|>" for turn in GOOD)


@pytest.mark.parametrize(
    "response,reason",
    [
        (("It is \\boxed{a dog}.",), "none of 1 answers is right"),
        ((RIGHT,), "it makes no call"),
        ((crop(0.1, 0.1, 0.1, 0.1), crop(0.1, 0.1, 0.6, 0.6), RIGHT), "operation 1 failed"),
        ((crop(0.1, 0.1, 0.6, 0.6), crop(0.1, 0.1, 0.1, 0.1), RIGHT), "none of 1 answers is right"),
        ((f"A siamese cat?\n{GOOD[0]}", RIGHT), "names the answer"),
        ((GOOD[0], f"\\boxed{{no}} {RIGHT}"), "boxed"),
        ((GOOD[0], f"<|im_start|> {RIGHT}"), "im_start"),
        ((GOOD[0], f"\x1b[31m {RIGHT}"), "the character"),
        ((GOOD[0], "x" * 5000 + RIGHT), "characters"),
        ((GOOD[0], "I look again."), "none of 1 answers is right"),
    ],
)
def test_what_is_not_kept(processor, response, reason):
    outcome = sample(processor, image_seed(1, cue=()), response)
    assert outcome.reason == "unsolved" and reason in str(outcome)


def test_a_synthesis_of_samples(processor, tmp_path):
    """Images and a video; in the seeds' order, whatever is done first; and what is lost is named."""
    seeds = [image_seed(number, cue=()) for number in range(5)]
    video = video_seed(1, cue=(), answer="a jump")
    scripts = {seed.id: [("It is \\boxed{a dog}.",), GOOD] for seed in seeds}
    scripts["seed-3"] = [(RIGHT,), ("\\boxed{7}",)]
    scripts[video.id] = [(frames(2, 5), "\\boxed{a jump}"), ("\\boxed{a run}",)]
    broken = image_seed(8, cue=(), images=(encoded(picture(8))[:300],))
    sources = {"list": [*seeds, video, image_seed(7, question="", answer="", cue=()), broken]}
    media = BudgetMediaLoader(processor.budgets)
    results = []
    for name in ("one", "two"):
        policy = ScriptedPolicy(processor, scripts)
        settings = SynthesisSettings(sources, 8, image_mix=SAMPLED_MIX, video_mix=SAMPLED_MIX, shard_size=3)
        summary = Synthesis(settings, PolicySampler(policy, 2), media, tmp_path / name).run()
        assert summary.kinds == {"sampled": 5} and summary.videos == {"sampled": 1}
        assert summary.rejected == {"unsolved": 1, "caption": 1, "unreadable": 1}
        assert summary.shares(SAMPLED_MIX, SAMPLED_MIX)["image"] == {"sampled": {"wanted": 1.0, "made": 1.0}}
        assert sorted(policy.asked) == sorted(scripts)
        results.append(RecordSource(tmp_path / name, "trajectory").digest)
    assert results[0] == results[1]
    lines = [json.loads(line) for line in (tmp_path / "one" / REJECTED_FILE).read_text().splitlines()]
    assert {line["id"] for line in lines if line["reason"] == "unsolved"} == {"seed-3"}
    drafts = {draft.query_id: draft for draft in RecordSource(tmp_path / "one", "trajectory")}
    assert drafts[video.id].operations[0].arguments == {"target_frames": [2, 5]}


def test_samples_and_templates_are_not_mixed_up(processor, tmp_path):
    media = BudgetMediaLoader(processor.budgets)
    sampled = SynthesisSettings({"a": [image_seed(1)]}, 1, image_mix=SAMPLED_MIX, video_mix=SAMPLED_MIX)
    for settings, captioner in (
        (sampled, TemplateCaptioner),
        (SynthesisSettings({"a": [image_seed(1)]}, 1), PolicySampler(ScriptedPolicy(processor, {}))),
    ):
        with pytest.raises(ValueError, match="SAMPLED_MIX is for a PolicySampler"):
            Synthesis(settings, captioner, media, tmp_path)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        PolicySampler(ScriptedPolicy(processor, {}), 0)
    with pytest.raises(ValueError, match="without operations"):
        PolicySampler(ScriptedPolicy(processor, {}, registry=None))
