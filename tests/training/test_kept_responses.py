"""Responses of a run's evaluations that are stored beside it: which, how many, and that they end nothing."""

import collections
import json
import types

import pytest

from pixel_reasoner_jax.config import load_config
from pixel_reasoner_jax.evaluation.answering import Answer
from pixel_reasoner_jax.evaluation.records import ScoredRecord, read_records
from pixel_reasoner_jax.evaluation.trajectories import TrajectoryWriter, read_trajectories
from pixel_reasoner_jax.processing import Budgets
from pixel_reasoner_jax.rollout.settings import PolicySettings
from pixel_reasoner_jax.training import kept_responses, rl
from pixel_reasoner_jax.training.evaluation import Plan, RunEvaluation
from pixel_reasoner_jax.training.stopping import StopRequest
from tests.evaluation.scripted import ScriptedPolicy, picture, trajectory
from tests.training.test_evaluation import Recorded, with_queries
from tests.viewer.conftest import details, view_of


def answers(count: int, id: str = "q{}") -> list[Answer]:
    made = [trajectory({"id": id.format(n), "question": "?", "images": [picture(3)]}, 0, "4") for n in range(count)]
    return [Answer(ScoredRecord.of(one, "data", 1.0), one, [picture(3)]) for one in made]


def ids(kept: kept_responses.KeptResponses) -> list[str]:
    return [one.record.id for one in kept.answers]


def test_those_that_are_kept_depend_on_their_ids_alone():
    first, second = kept_responses.KeptResponses(3), kept_responses.KeptResponses(3)
    for one in answers(20):
        first.add(one)
    for one in [*reversed(answers(20)), Answer(ScoredRecord("data", "gone", unreadable=True))]:
        second.add(one)
    assert ids(first) == ids(second) and len(set(ids(first))) == 3
    same, none = kept_responses.KeptResponses(3), kept_responses.KeptResponses(0)
    for one in answers(5, "\ud800"):
        same.add(one)
        none.add(one)
    assert ids(same) == ["\ud800"] * 3 and ids(none) == []


def test_they_replace_those_of_before_and_end_nothing(tmp_path, monkeypatch, caplog):
    kept_responses.store(tmp_path, 7, answers(3))
    folder = tmp_path / "evaluations" / "00007"
    write = TrajectoryWriter.write

    def fails(self, key, *rest):
        if key[2] == "q1":
            raise ValueError("what a model wrote")
        write(self, key, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryWriter, "write", fails)
        kept_responses.store(tmp_path, 7, answers(2))
    assert [record.id for record in read_records(folder)] == ["q0"] and "what a model wrote" in caplog.text
    (tmp_path / "evaluations" / "00008").mkdir()
    kept_responses.drop_after(tmp_path / "evaluations", 7)
    assert [path.name for path in (tmp_path / "evaluations").iterdir()] == ["00007"]
    monkeypatch.setattr(TrajectoryWriter, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        kept_responses.store(tmp_path, 7, answers(1))


class Running(ScriptedPolicy):
    """A policy that trains."""

    def stream(self, queries, *, stop, **settings):
        return super().stream(queries, **settings)

    def release(self):
        pass


@pytest.mark.parametrize(("phase", "most"), [("rl", 0), ("rl", 3), ("sft", 3)])
def test_an_evaluation_of_a_run_keeps_some(tmp_path, phase, most):
    picture(5).save(tmp_path / "a.png")
    rows = [{"id": f"q{n}", "question": f"What is {n}?", "answer": str(n), "images": ["a.png"]} for n in range(6)]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"on": (f"data:{tmp_path / 'queries.jsonl'}",), "every": 1, "samples": 2, "temperature": 1.0}
    config = load_config(f"{phase}_qwen2_5_vl_7b", [("train.log_samples", str(most))])
    config.evaluation.update(settings)
    training = Recorded(tmp_path / "run")
    training.settings, training.processor = PolicySettings(), types.SimpleNamespace(budgets=Budgets())
    run = RunEvaluation(config, training, Plan.of(config), StopRequest(), lambda _: Running(lambda *_: "\\boxed{1}"))
    assert run.after(1, 9, None, 1)["evaluation/data/score"] == pytest.approx(1 / 6)
    assert run.after(2, 9, None, 2)
    folder = training.workdir / "evaluations"
    if not most:
        assert not folder.exists()
        return
    first, second = ([*read_records(folder / name)] for name in ("00001", "00002"))
    assert [one.key for one in first] == [one.key for one in second] and len(first) == most
    stored = read_trajectories(folder / "00001", [one.key for one in first])
    assert len(stored) == most and all(one.tokens.size for one in stored.values())
    assert len([*(folder / "00001" / "images").iterdir()]) == 1
    run.begin(1, 9, None, 1, None)  # it goes on after step 1
    assert [path.name for path in folder.iterdir()] == ["00001"]


@pytest.mark.slow
def test_a_run_of_rl_keeps_some_that_the_viewer_shows(rl_config, start, luck_pays, tmp_path):
    config = with_queries(rl_config, start)
    config.train.update(dict(steps=1, log_samples=2))
    model = rl.run(config)
    _, index = view_of(tmp_path / "view", model.parent)
    groups = collections.Counter(row["group"] for row in index["rows"])
    assert groups == {"episode 1": 2, "evaluation after 0: data": 2, "evaluation after 1: data": 2}
    for row in index["rows"]:
        shown = details(tmp_path / "view", row)
        assert shown["turns"] and any("images" in item for message in shown["messages"] for item in message["items"])
