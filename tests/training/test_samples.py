"""Trajectories that a run stores: complete, bounded, and once for every episode."""

import dataclasses
import errno
import io
import json
import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from data_pipeline.logged_tokens import LoggedTokens
from data_pipeline.pipeline import render_trajectory
from data_pipeline.records import RecordSource
from pixel_reasoner_jax.commands import inspect_data
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.files import StorageError
from pixel_reasoner_jax.metrics import read_metrics
from pixel_reasoner_jax.operations.error_kinds import ERROR_KINDS
from pixel_reasoner_jax.plan.stored_lengths import run_groups
from pixel_reasoner_jax.processing import Processor
from pixel_reasoner_jax.training import rl, samples
from pixel_reasoner_jax.training.samples import error_counts
from pixel_reasoner_jax.trajectory import OperationRecord, Source
from tests.documents import undocumented
from tests.training.interruption import interrupted


def folders(workdir) -> list[str]:
    return sorted(path.name for path in (pathlib.Path(workdir) / "samples").iterdir())


def stored(workdir, episode):
    return [*RecordSource(pathlib.Path(workdir) / "samples" / f"{episode:05d}", "trajectory")]


def test_a_run_stores_samples(rl_config, capsys):
    rl_config.train.update(dict(log_samples=3, steps=1))
    with pytest.raises(UserError, match="no update was made"):  # luck does not pay here
        rl.run(rl_config)
    check_samples(rl_config.workdir, 1)
    arguments = types.SimpleNamespace(
        dataset=f"{rl_config.workdir}/samples/00001", model=None, seed=0, samples=3, html=None, json=False
    )
    capsys.readouterr()
    inspect_data.run(arguments)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("log-probabilities of sampler and trainer differ by") == 3
    assert shown.count("policy after 0 updates") == 3 and "correct 0" in shown and "advantage" in shown
    check_lengths(rl_config)


def check_lengths(config):
    """`plan --episode --lengths` draws from what was stored."""
    drafts = stored(config.workdir, 1)
    prompts = {int((LoggedTokens.of(draft).source == Source.PROMPT).sum()) for draft in drafts}
    sampled = {int((LoggedTokens.of(draft).source == Source.SAMPLED).sum()) for draft in drafts}
    groups = run_groups(config.workdir, config)
    assert len(groups) == config.grpo.queries_per_episode and {group.prompt for group in groups} <= prompts
    responses = [turns for group in groups for turns in group.responses]
    assert {sum(turn.sampled for turn in turns) for turns in responses} <= sampled
    assert all(0 < sum(group.images) < group.prompt for group in groups)


@pytest.mark.slow
def test_a_run_that_goes_on_stores_every_episode_once(rl_config, luck_pays, monkeypatch):
    rl_config.train.update(dict(log_samples=3, steps=3, checkpoint_every=1))
    interrupted(monkeypatch, rl.run, rl_config, after=3)  # the third episode is dropped, the second begun anew
    before = [draft.attributes for draft in stored(rl_config.workdir, 2)]
    rl_config.train.steps = 2
    rl.run(rl_config, resume=1)
    assert [draft.attributes for draft in stored(rl_config.workdir, 2)] == before
    check_samples(rl_config.workdir, 2)


def check_samples(workdir, episodes):
    assert folders(workdir) == [f"{episode:05d}" for episode in range(1, episodes + 1)]
    processor = Processor.from_pretrained(pathlib.Path(workdir) / "initial")
    for episode, line in enumerate(read_metrics(workdir), start=1):
        drafts = stored(workdir, episode)
        assert len(drafts) == 3 and {draft.policy_version for draft in drafts} == {episode - 1}
        for draft in drafts:
            check_draft(draft, processor)
        assert line["logprob_difference_text"] <= line["logprob_difference_text_max"] < 1e-4
        assert {f"errors_{kind}" for kind in ERROR_KINDS} <= line.keys() and not undocumented(line)


def check_draft(draft, processor):
    """All that was computed is there, and it is rendered as it was."""
    attributes, tokens = draft.attributes, LoggedTokens.of(draft)
    assert attributes.keys() >= {"episode", "sample", "ended", "reward", "reward_terms", "advantage"}
    assert attributes["reward_terms"].keys() == {"correct", "bonus", "penalty"}
    sampled = tokens.source == Source.SAMPLED
    assert sampled.any() and (tokens.logprobs[sampled] < 0).all() and not tokens.logprobs[~sampled].any()
    np.testing.assert_allclose(tokens.logprobs, tokens.trainer_logprobs, atol=1e-4)
    assert (tokens.temperatures == 1).all()
    rendered, prompt = render_trajectory(draft, processor), tokens.source == Source.PROMPT
    count = int((rendered.source == Source.PROMPT).sum())
    assert np.array_equal(rendered.tokens[:count], tokens.tokens[prompt][:count])  # with images of the same size
    assert rendered.policy_version == draft.policy_version


@pytest.fixture
def rewarded(make_trajectory):
    """Two groups of two; the images are 400 x 300, and the model has seen them in 56 x 56."""
    seen = types.SimpleNamespace(size=(56, 56))
    arguments = {"bbox_2d": [float("inf"), 10**400], "x": "\ud800"}

    def one(query, sample):
        made = make_trajectory(query_id=query, sample=sample, media=[seen, seen], policy_version=4)
        size = len(made.tokens)
        made.logprobs, made.temperatures = np.full(size, -0.1, np.float32), np.ones(size, np.float32)
        made.operations = [*made.operations, OperationRecord(1, "zoom_in", arguments, error="refused: max_operations")]
        return made

    groups = [[one(query, sample) for sample in range(2)] for query in ("a", "b")]
    table = np.arange(4.0).reshape(2, 2)
    return types.SimpleNamespace(groups=groups, terms={"correct": table}, rewards=table, advantages=table - 1)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """`log_samples` with a trainer that gives every token -0.3."""
    monkeypatch.setattr(
        samples, "trainer_logprobs", lambda *given: [(s, np.full(len(s.tokens), -0.3, np.float32)) for s in given[2]]
    )

    @dataclasses.dataclass
    class Training:
        workdir: pathlib.Path = tmp_path
        shards = types.SimpleNamespace(local=[0, 1])
        processor = types.SimpleNamespace(placeholder_tokens=(99,))
        is_tracked = False
        plan = staticmethod(lambda sequences: sequences)
        agree_on_shapes = staticmethod(lambda plans: [s for of_shard in plans.values() for s in of_shard])
        phase = staticmethod(lambda name: __import__("contextlib").nullcontext())

    return lambda rewarded, episode=1, count=9, seed=0: samples.log_samples(
        Training(), None, None, rewarded, episode, count, seed
    )


def test_whatever_a_model_wrote_is_stored_and_images_once_as_it_saw_them(rewarded, log, tmp_path):
    rewarded.groups[0][0].object_box = (0.1, 0.2, 0.3, 0.4)
    figures = log(rewarded)
    assert figures["logprob_difference_text"] == pytest.approx(0.2)
    drafts = stored(tmp_path, 1)
    assert [(draft.query_id, draft.attributes["sample"]) for draft in drafts] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
    ]
    assert [draft.attributes["reward_terms"]["correct"] for draft in drafts] == [0, 1, 2, 3]
    assert drafts[3].attributes["advantage"] == 2.0 and drafts[0].policy_version == 4
    assert drafts[0].operations[2].arguments["bbox_2d"][0] == "inf"
    boxes = [draft.attributes.get("object_box") for draft in drafts]
    assert boxes == [[0.1, 0.2, 0.3, 0.4], None, None, None]  # shares of an image of whatever size
    images = [item["image"] for m in drafts[0].messages for item in m["content"] if item["type"] == "image"]
    assert [Image.open(io.BytesIO(image)).size for image in images] == [(56, 56)] * 2
    (shard,) = (tmp_path / "samples" / "00001").glob("*.array_record")
    assert shard.read_bytes().count(b"\x89PNG") == 1  # all of them are alike


def test_an_episode_is_stored_once(rewarded, log, tmp_path):
    log(rewarded, count=4)
    log(rewarded, count=2)  # begun anew
    log(rewarded, episode=2, count=1)
    assert log(rewarded, episode=3, count=0) == {}
    assert [len(stored(tmp_path, episode)) for episode in (1, 2)] == [2, 1] and folders(tmp_path) == ["00001", "00002"]


def test_samples_of_later_episodes_are_dropped(rewarded, log, tmp_path):
    samples.drop_samples_after(tmp_path, 0)  # there is none
    for episode in (1, 2, 10, 100_000):
        log(rewarded, episode=episode, count=1)
    (tmp_path / "samples" / "mine").mkdir()
    samples.drop_samples_after(tmp_path, 2)
    assert folders(tmp_path) == ["00001", "00002", "mine"]


def test_what_cannot_be_stored_is_left_out(rewarded, log, tmp_path, caplog):
    rewarded.groups[0][0].reference = 7
    log(rewarded)
    assert len(stored(tmp_path, 1)) == 3 and "a sample was not stored: " in caplog.text


def test_a_full_disk_is_an_error_that_names_it(rewarded, log, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("data_pipeline.records.shards.move", full)
    with pytest.raises(StorageError, match="cannot be written: No space left"):
        log(rewarded)


def test_no_sample_is_taken_where_every_query_failed(rewarded, log, tmp_path):
    rewarded.groups = [[], []]
    assert log(rewarded) == {} and stored(tmp_path, 1) == []


def test_what_is_no_stored_sample_says_so(rewarded, log, tmp_path):
    log(rewarded, count=1)
    (draft,) = stored(tmp_path, 1)
    tokens = draft.attributes["tokens"]
    assert LoggedTokens.of(draft).tokens.tolist() == list(range(10))
    for change in (
        {"ids": None}, {"source": [[1, 3]]}, {"source": [[0, -1], [1, 11]]}, {"logprobs": [1.0]}, {"ids": [10**30]},
    ):  # fmt: skip
        wrong = dataclasses.replace(draft, attributes={"tokens": tokens | change})
        with pytest.raises(UserError, match="is no stored sample of a run"):
            LoggedTokens.of(wrong)
    with pytest.raises(UserError):
        LoggedTokens.of(dataclasses.replace(draft, attributes={}))


def test_errors_are_counted_by_kind(rewarded):
    counts = error_counts(rewarded.groups)
    assert counts["errors_limit"] == 4 and counts["errors_other"] == 4 and sum(counts.values()) == 8
    assert set(error_counts([[]]).values()) == {0} and json.dumps(counts)
