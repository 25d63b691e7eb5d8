"""Evaluating benchmarks with policies that answer by a script: exact figures, however often it was killed."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import json
import random
import threading

import pytest

from data_pipeline import lessons
from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.evaluation import benchmark_run
from pixel_reasoner_jax.evaluation.answering import Asked
from pixel_reasoner_jax.evaluation.benchmark_run import evaluate_benchmarks, name_benchmarks
from pixel_reasoner_jax.evaluation.benchmarks import find_benchmark
from pixel_reasoner_jax.evaluation.protocol import OwnSettings, make_protocol
from pixel_reasoner_jax.evaluation.records import read_records, read_results
from pixel_reasoner_jax.evaluation.trajectories import read_trajectories
from pixel_reasoner_jax.operations import default_registry
from pixel_reasoner_jax.processing import MediaError, PictureStore, pictures
from pixel_reasoner_jax.query import check_query
from pixel_reasoner_jax.rollout.prompt import Prompt
from tests.evaluation.forms import write_image, write_json
from tests.evaluation.scripted import Killed, ScriptedPolicy

MODEL = {"name": "scripted", "hash": "1"}
TIMED = ("seconds",)


def write_tallyqa(folder, count=24, broken=()):
    """Questions "q0", "q1", … whose answer is their number modulo 16, two on an image; every third one is simple."""
    rows = []
    for n in range(count):
        name = f"{n // 2}.png"
        write_image(folder / name, n // 2)
        rows.append({"image": name, "question": f"q{n}", "answer": n % 16, "issimple": n % 3 == 0})
        rows[-1] |= {"image_id": n // 2, "question_id": n}
        if n in broken:
            rows[-1]["image"] = "missing.png"
    write_json(folder / "test.json", rows)
    return folder


def asked(path, name="tallyqa", label=None, protocol=None, **changes):
    kind = find_benchmark(name)
    changes = {key.replace("__", "."): str(value) for key, value in changes.items()}
    found = make_protocol(kind, OwnSettings(), protocol, changes)
    return Asked(label or name, kind(path, order=found.order, seed=found.order_seed), found)


def number(query):
    return int(query["question"].splitlines()[0][1:])


def right(query, sample=0):
    return f"There are \\boxed{{{number(query) % 16}}}."


def first(k):
    """Answers the first k questions rightly."""
    return lambda query, sample: right(query) if number(query) < k else "\\boxed{99}"


def run(policy, directory, *benchmarks):
    return evaluate_benchmarks(benchmarks, lambda protocol, mode: policy, directory, MODEL)


def without_times(results):
    found = copy.deepcopy(results)
    for benchmark in found["benchmarks"].values():
        for figures in (benchmark, *benchmark.get("modes", {}).values()):
            for name in TIMED:
                figures.pop(name)
    return found


def test_k_of_n_rightly_is_k_of_n(tmp_path):
    data = write_tallyqa(tmp_path / "data")
    policy = ScriptedPolicy(first(17))
    results = run(policy, tmp_path / "out", asked(data))
    found = results["benchmarks"]["tallyqa"]
    assert found["score"] == 17 / 24 and found["count"] == 24 and found["unreadable"] == 0
    assert found["interval"][0] < 17 / 24 < found["interval"][1] and found["clusters"] == 12
    assert {name: part["count"] for name, part in found["categories"].items()} == {"complex": 16, "simple": 8}
    assert found["categories"]["simple"]["score"] == 6 / 8  # 0, 3, …, 15 of 0, 3, …, 21
    assert set(found["scorers"]) == {"count", "vlmevalkit-count", "big-vision-count", "answer", "pixel-reasoner"}
    assert (found["rapr"], found["operations"], found["tokens"]) == (1.0, 1.0, 4.0)
    assert found["protocol"]["name"] == "paper" and found["protocol_hash"] == asked(data).protocol.hash
    assert "24 rows" in found["notes"][0] and found["scorer"] == "count"
    assert results["model"] == MODEL and results["versions"]["jax"]
    assert read_results(tmp_path / "out") == json.loads(json.dumps(results))
    samples, seed, sampling = policy.sampling
    assert (samples, seed, sampling.temperature, sampling.max_turn_tokens) == (1, 0, 0.0, 2048)
    assert len(list(read_records(tmp_path / "out"))) == 24


def test_a_policy_is_not_asked_when_all_is_answered(tmp_path):
    data = write_tallyqa(tmp_path / "data")
    results = run(ScriptedPolicy(first(17)), tmp_path / "out", asked(data))
    again = evaluate_benchmarks([asked(data)], None, tmp_path / "out", MODEL)
    assert without_times(again) == without_times(results)


def test_killed_at_any_response_it_goes_on_to_the_same_figures(tmp_path):
    data = write_tallyqa(tmp_path / "data", broken=(5,))
    more = dict(samples=3, sampling__temperature=1, mode="both")

    def answers(query, sample):
        if number(query) == 7:
            raise MediaError("too long")
        return right(query) if (number(query) + sample) % 4 else "none"

    whole = run(ScriptedPolicy(answers), tmp_path / "whole", asked(data, **more), asked(data, label="again"))
    rng, attempts, given = random.Random(0), 0, 0
    while True:
        policy = ScriptedPolicy(answers, kill_after=rng.randrange(1, 30), together=rng.randrange(1, 6))
        try:
            results = run(policy, tmp_path / "out", asked(data, **more), asked(data, label="again"))
            break
        except Killed:
            attempts += 1
            lines = (tmp_path / "out" / "records.jsonl").read_bytes()
            if attempts % 2:  # the last line was cut, or is lost
                (tmp_path / "out" / "records.jsonl").write_bytes(lines[: -rng.randrange(1, 200)])
            assert not (tmp_path / "out" / "results.json").exists()
        finally:
            given += policy.given
    assert attempts > 5 and without_times(results) == without_times(whole)
    keys = [record.key for record in read_records(tmp_path / "out")]
    assert len(keys) == len(set(keys)) == 2 * (22 * 3 + 2) + 24  # of an unreadable item one
    assert given >= len(keys) - 6
    assert set(read_trajectories(tmp_path / "out", keys)) == {key for key in keys if key[2] not in ("2-5", "3-7")}


def test_what_cannot_be_read_is_named_and_wrong(tmp_path):
    data = write_tallyqa(tmp_path / "data", broken=(3, 4))

    def answers(query, sample):
        if number(query) == 6:
            raise MediaError("an image of 1x900 pixels is more than 200 times as long as wide")
        return right(query)

    found = run(ScriptedPolicy(answers), tmp_path / "out", asked(data))["benchmarks"]["tallyqa"]
    assert (found["score"], found["unreadable"], found["responses"]) == (21 / 24, 3, 21)
    assert list(found["unreadable_items"]) == ["1-3", "2-4", "3-6"]
    assert "missing.png" in found["unreadable_items"]["1-3"] and "1x900" in found["unreadable_items"]["3-6"]


@pytest.mark.parametrize("table", ["test.json", "own.jsonl"])
def test_what_could_not_be_read_is_asked_once_its_picture_is_there(tmp_path, table):
    data, name = write_tallyqa(tmp_path, 6, broken=(3, 4)), "tallyqa"
    if table == "own.jsonl":
        rows = [{"id": f"q{n}", "question": f"q{n}", "answer": str(n), "image": f"{n // 2}.png"} for n in range(6)]
        rows[3]["image"] = rows[4]["image"] = "missing.png"
        data, name = tmp_path / table, "data"
        data.write_text("\n".join(map(json.dumps, rows)))
    again = dict(samples=2, sampling__temperature=1)
    before = run(ScriptedPolicy(right), tmp_path / "out", asked(data, name, **again))["benchmarks"][name]
    assert (before["score"], before["unreadable"], before["count"]) == (4 / 6, 2, 6)
    write_image(tmp_path / "missing.png", 7)
    policy = ScriptedPolicy(right)
    after = run(policy, tmp_path / "out", asked(data, name, **again))["benchmarks"][name]
    assert (after["score"], after["unreadable"], after["count"]) == (1, 0, 6) and len(policy.asked) == 2
    keys = [record.key for record in read_records(tmp_path / "out")]
    assert len(keys) == len(set(keys)) == 12 and set(read_trajectories(tmp_path / "out", keys)) == set(keys)


def test_an_item_has_all_of_its_responses_or_none(tmp_path):
    """Its policy gives it up after a response, or it is killed there and the picture is gone, and comes back."""
    data, more = write_tallyqa(tmp_path / "data", 4), dict(samples=2, sampling__temperature=1)

    def gives_up(query, sample):
        if number(query) == 1 and sample == 0:  # samples come in the other order
            raise MediaError("gone")
        return right(query)

    given_up = run(ScriptedPolicy(gives_up), tmp_path / "given_up", asked(data, **more))["benchmarks"]["tallyqa"]
    assert (given_up["score"], given_up["unreadable"], given_up["responses"]) == (3 / 4, 1, 6)
    again = evaluate_benchmarks([asked(data, **more)], None, tmp_path / "given_up", MODEL)["benchmarks"]["tallyqa"]
    assert again["score"] == 3 / 4  # the policy has said that it cannot be asked: not so often as it is called
    with pytest.raises(Killed):
        run(ScriptedPolicy(right, kill_after=1, together=1), tmp_path / "out", asked(data, **more))
    assert [record.key[2:] for record in read_records(tmp_path / "out")] == [("0-0", 1)]
    picture = (data / "0.png").rename(tmp_path / "kept.png")
    gone = run(ScriptedPolicy(right), tmp_path / "out", asked(data, **more))["benchmarks"]["tallyqa"]
    assert (gone["score"], gone["unreadable"], gone["responses"]) == (2 / 4, 2, 4)
    picture.rename(data / "0.png")
    whole = run(ScriptedPolicy(right), tmp_path / "out", asked(data, **more))["benchmarks"]["tallyqa"]
    assert (whole["score"], whole["unreadable"], whole["responses"]) == (1, 0, 8)
    keys = [record.key for record in read_records(tmp_path / "out")]
    assert len(keys) == 8 and set(read_trajectories(tmp_path / "out", keys)) == set(keys)


def test_an_order_of_options_that_a_picture_decides_is_another_evaluation(tmp_path):
    rows = [{"question": f"q{n}", "options": ["a", "b"], "answer": "A", "image": f"{n}.png"} for n in range(9)]
    rows.append({"question": "q9", "options": ["a", "b"], "answer": "B", "image": "9.png"})
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for n in range(9):
        write_image(tmp_path / f"{n}.png", n)
    run(ScriptedPolicy(lambda *_: "A"), tmp_path / "out", asked(tmp_path / "own.jsonl", "data"))
    write_image(tmp_path / "9.png", 9)
    with pytest.raises(UserError, match=r"data.shuffled \(True there, False now\)"):
        run(ScriptedPolicy(lambda *_: "A"), tmp_path / "out", asked(tmp_path / "own.jsonl", "data"))


def test_the_order_of_shuffled_options_is_recorded(tmp_path):
    for n in range(20):
        write_image(tmp_path / "data" / f"sa_{n}.png", n)
        options = [f"right {n}", "left", "above", "below"]
        write_json(tmp_path / "data" / f"sa_{n}.json", {"question": f"q{n}", "options": options})
    policy = ScriptedPolicy(lambda query, sample: "A")
    run(policy, tmp_path / "out", asked(tmp_path / "data", "vstar", order_seed=3))
    records = {record.question: record for record in read_records(tmp_path / "out")}
    assert len({record.order for record in records.values()}) > 5
    for query in policy.asked:
        question, *lines = query["question"].splitlines()
        shown = [line[4:] for line in lines[:4]]
        options = [f"right {question[1:]}", "left", "above", "below"]
        assert shown == [options[place] for place in records[question].order]
        assert records[question].score == float(shown[0] == options[0])


class Rated(find_benchmark("tallyqa")):
    """Its second item is a video at no rate that there is."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return dataclasses.replace(item, video=list(item.images), fps=-1.0) if index == 1 else item


def test_a_query_that_cannot_be_asked_is_unreadable(tmp_path):
    one = asked(write_tallyqa(tmp_path / "data"))
    one = dataclasses.replace(one, benchmark=Rated(tmp_path / "data"))
    found = run(ScriptedPolicy(right), tmp_path / "out", one)["benchmarks"]["tallyqa"]
    assert (found["score"], found["unreadable"]) == (23 / 24, 1) and "fps" in found["unreadable_items"]["0-1"]


def test_samples_and_modes(tmp_path):
    data = write_tallyqa(tmp_path / "data")
    policies = {
        "pixel": ScriptedPolicy(lambda query, sample: right(query) if sample < 3 else ""),
        "text": ScriptedPolicy(lambda query, sample: right(query) if sample < 1 else "99"),
    }
    one = asked(data, samples=4, sampling__temperature=0.7, seed=5, mode="both")
    found = evaluate_benchmarks([one], lambda _, mode: policies[mode], tmp_path / "out", MODEL)["benchmarks"]["tallyqa"]
    assert (found["mode"], found["score"], found["avg@4"]["score"], found["pass@2"]["score"]) == ("both", 0.75, 0.75, 1)
    assert found["modes"]["text"]["score"] == 0.25 and found["difference"]["difference"] == 0.5
    assert policies["text"].sampling[:2] == (4, 5)


def test_another_evaluation_in_the_folder_is_refused(tmp_path):
    data = write_tallyqa(tmp_path / "data")
    policy = ScriptedPolicy(first(17))
    run(policy, tmp_path / "out", asked(data))
    for other, message in (
        ([asked(data, budgets__image="256,16384")], r"tallyqa.protocol.budgets.image \(\[256, 8000\] there, \[256, 16"),
        ([asked(data), asked(data, label="b")], "differs in benchmarks.b"),
        ([asked(write_tallyqa(tmp_path / "less", 10))], r"items \(24 there, 10 now\)"),
    ):
        with pytest.raises(UserError, match=message):
            run(policy, tmp_path / "out", *other)
    with pytest.raises(UserError, match=r"differs in model.hash \('1' there, '2' now\)"):
        evaluate_benchmarks([asked(data, protocol="paper")], None, tmp_path / "out", MODEL | {"hash": "2"})
    (tmp_path / "out" / "evaluation.json").unlink()
    with pytest.raises(UserError, match="not what was evaluated"):
        run(policy, tmp_path / "out", asked(data))


@pytest.mark.parametrize("name", ["tallyqa", "data"])
def test_a_table_that_was_edited_is_another_one(tmp_path, name):
    data, out = write_tallyqa(tmp_path, 3), tmp_path / "out"
    table = data / "test.json"
    rows = json.loads(table.read_text())
    if name == "data":
        data = table = tmp_path / "own.jsonl"
        rows = [{"question": row["question"], "answer": str(row["answer"]), "images": [row["image"]]} for row in rows]
        table.write_text("\n".join(map(json.dumps, rows)))
    run(ScriptedPolicy(right), out, asked(data, name))
    assert run(ScriptedPolicy(None), out, asked(data, name))["benchmarks"][name]["score"] == 1  # it is not asked again
    table.write_text(table.read_text().replace("q1", "q7"))
    with pytest.raises(UserError, match=rf"{name}.rows_digest \('[0-9a-f]+' there, '[0-9a-f]+' now\): choose another"):
        run(ScriptedPolicy(None), out, asked(data, name))


def test_one_edit_of_a_large_table_is_seen_and_the_same_file_is_known_by_any_path(tmp_path):
    folder = tmp_path / "data"
    rows = [{"image": "a.png", "question": f"q{n}", "answer": 1, "issimple": False} for n in range(60_000)]
    table = write_json(folder / "test.json", rows)
    before = asked(folder).benchmark.rows_digest
    assert asked(table).benchmark.rows_digest == before
    rows[31_415]["answer"] = 2
    write_json(table, rows)
    assert asked(folder).benchmark.rows_digest != before


def test_a_file_of_a_row_that_cannot_be_read_is_no_error_of_the_digest(tmp_path):
    data = write_tallyqa(tmp_path, 3)
    benchmark = asked(data).benchmark
    there = benchmark.rows_digest
    (data / "test.json").unlink()
    assert benchmark.rows_digest != there


def test_splits_and_seeds_of_the_world_are_others():
    world = find_benchmark("pixel_search")
    digests = [world(path, seed=seed).rows_digest for path, seed in (("heldout:9", 0), ("sft:9", 0), ("heldout:9", 1))]
    assert len(set(digests)) == 3 and world("heldout:9").rows_digest == digests[0]


def test_the_error_of_a_policy_ends_it(tmp_path):
    data = write_tallyqa(tmp_path / "data")

    def fails(query, sample):
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        run(ScriptedPolicy(fails), tmp_path / "out", asked(data))


def test_the_error_of_a_scorer_ends_it(tmp_path, monkeypatch):
    data = write_tallyqa(tmp_path / "data")
    with pytest.raises(ZeroDivisionError):
        run(ScriptedPolicy(first(9)), tmp_path / "out", asked(data, scorer=f"{__name__}:divide"))


def divide(response, item):
    return 1 / 0


def test_one_s_own_benchmark_and_scorer(tmp_path):
    data = write_tallyqa(tmp_path / "data")
    one = asked(data, "pixel_reasoner_jax.evaluation.benchmarks.tallyqa:TallyQA", scorer=f"{__name__}:half")
    name = "pixel_reasoner_jax.evaluation.benchmarks.tallyqa:TallyQA"
    assert run(ScriptedPolicy(first(9)), tmp_path / "out", one)["benchmarks"][name]["score"] == 0.5


def half(response, item):
    return 0.5


class RenderingPolicy(ScriptedPolicy):
    """Renders every prompt as `Policy` does, and keeps its tokens as text."""

    def __init__(self, processor, registry, answer):
        super().__init__(answer)
        self._processor, self._registry, self.prompts, self.sizes = processor, registry, [], []

    def _responses(self, queries, samples):
        for number, query in queries:
            prompt = Prompt.build(check_query(query), self._processor, self._registry, "Think.", PictureStore())
            self.prompts.append(self._processor.tokenizer.decode(prompt.rendered.tokens))
            self.sizes.append([media.size for media in prompt.rendered.media])
            self.asked.append(query)
            for _, trajectory in super()._responses(iter([(number, query)]), samples):
                trajectory.media = prompt.rendered.media
                yield number, trajectory


def test_answers_never_reach_the_prompt(tmp_path, processor):
    canary = "zyzzyva"
    rows = [{"image": f"{n}.png", "question": f"q{n} how much?", "answer": f"{canary} {n}"} for n in range(4)]
    for n, row in enumerate(rows):
        write_image(tmp_path / "data" / f"{n}.png", n)
        row |= {"answers": [row["answer"]], "questionId": n, "image_local_name": row.pop("image")}
    write_json(tmp_path / "data" / "infographicsVQA_val_v1.0.json", {"data": rows})
    policy = RenderingPolicy(processor, default_registry(lessons.PADDING), lambda query, sample: f"{canary} 1")
    results = run(policy, tmp_path / "out", asked(tmp_path / "data", "infovqa"))
    assert results["benchmarks"]["infovqa"]["score"] > 0  # the canary is what is compared
    assert len(policy.prompts) == 4 and all("how much?" in prompt for prompt in policy.prompts)
    said = json.dumps([policy.prompts, [{**query, "images": None} for query in policy.asked]])
    assert canary not in said
    images = results["benchmarks"]["infovqa"]["images"]
    assert list(images.values()) == [[f"{w}x{h}" for w, h in sizes] for sizes in policy.sizes] and len(images) == 4


def test_names():
    assert name_benchmarks([("vstar", "a"), ("data", "b"), ("data", "c")]) == ["vstar", "data:b", "data:c"]
    with pytest.raises(UserError, match="twice"):
        name_benchmarks([("vstar", "a"), ("vstar", "a")])


class Together:
    """Two threads that take themselves for two processes."""

    def __init__(self, patch):
        self._mine, self._barrier, self._said = threading.local(), threading.Barrier(2), [None, None]
        patch.setattr(benchmark_run.jax, "process_index", lambda: self._mine.number)
        patch.setattr(benchmark_run.jax, "process_count", lambda: 2)
        patch.setattr(benchmark_run, "is_main", lambda: self._mine.number == 0)
        patch.setattr(benchmark_run, "wait_for_all", lambda name: self._barrier.wait(20))
        patch.setattr(benchmark_run, "all_gather_json", self._gather)

    def _gather(self, value):
        self._said[self._mine.number] = value
        self._barrier.wait(20)
        return self._said

    def run(self, policies, directory, *benchmarks):
        """The results of each; the error that ended it, in place of results."""

        def one(number):
            self._mine.number = number
            try:
                return run(policies[number], directory, *benchmarks)
            except BaseException as error:
                self._barrier.abort()  # as the others end when a process does
                return error

        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            return list(threads.map(one, (0, 1)))


def test_processes_share_the_items(tmp_path, monkeypatch):
    data = write_tallyqa(tmp_path / "data", broken=(3,))
    one = asked(data, samples=2, sampling__temperature=1)
    whole = run(ScriptedPolicy(first(11)), tmp_path / "whole", one)
    policies = [ScriptedPolicy(first(11)), ScriptedPolicy(first(11))]
    with monkeypatch.context() as patch:
        results, nothing = Together(patch).run(policies, tmp_path / "out", one)
    assert nothing is None and without_times(results) == without_times(whole)
    assert [sorted(map(number, policy.asked)) for policy in policies] == [
        list(range(0, 24, 2)),
        [n for n in range(1, 24, 2) if n != 3],
    ]
    keys = [record.key for record in read_records(tmp_path / "out")]
    assert len(keys) == len(set(keys)) == 47
    assert len(read_trajectories(tmp_path / "out", keys)) == 46
    assert not list((tmp_path / "out").glob("process-*"))


def test_one_process_goes_on_where_two_were_killed(tmp_path, monkeypatch):
    data = write_tallyqa(tmp_path / "data", broken=(3,))
    one = asked(data, samples=2, sampling__temperature=1)
    whole = run(ScriptedPolicy(first(11)), tmp_path / "whole", one)
    with monkeypatch.context() as patch:
        policies = [ScriptedPolicy(first(11)), ScriptedPolicy(first(11), kill_after=9)]
        broken = Together(patch).run(policies, tmp_path / "out", one)
    assert [type(error) for error in broken] == [threading.BrokenBarrierError, Killed]
    assert (tmp_path / "out" / "process-00001" / "records.jsonl").exists()
    policy = ScriptedPolicy(first(11))
    assert without_times(run(policy, tmp_path / "out", one)) == without_times(whole)
    assert 0 < policy.given < 24  # what the first process had answered it does not ask again


def test_in_an_object_store(tmp_path, bucket):
    data = write_tallyqa(tmp_path / "data", broken=(3,))
    out = f"{bucket}/out"
    with pytest.raises(Killed):
        run(ScriptedPolicy(first(11), kill_after=9), out, asked(data))
    policy = ScriptedPolicy(first(11))
    assert without_times(run(policy, out, asked(data))) == without_times(
        run(ScriptedPolicy(first(11)), tmp_path / "out", asked(data))
    )
    assert 0 < policy.given < 23 and read_results(out)["benchmarks"]["tallyqa"]["score"] == 10 / 24
    keys = [record.key for record in read_records(out)]
    (found, *_) = read_trajectories(out, keys).values()
    assert found.messages[1]["content"][0]["image"].size == (32, 24)


def test_images_are_decoded_once(tmp_path, monkeypatch):
    """To see whether an item can be read, and to ask about it; and they are forgotten when it is answered."""
    data, decoded = write_tallyqa(tmp_path / "data"), []
    decode = pictures.decode_image
    monkeypatch.setattr(pictures, "decode_image", lambda source: decoded.append(source) or decode(source))
    one = asked(data)

    def looks(query, sample):
        assert query["images"][0].load().size == (32, 24)
        return right(query)

    run(ScriptedPolicy(looks), tmp_path / "out", one)
    assert len(decoded) <= 24 and len(set(decoded)) == 12  # an image of two items may be kept from one to the other
    assert one.benchmark.pictures.bytes == 0 < one.benchmark.pictures.peak_bytes
