"""MVBench: twenty tasks on videos, two hundred questions each."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.clips import Clip
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.options import index_of_text
from pixel_reasoner_jax.evaluation.benchmarks.released import RELEASED, read_released
from pixel_reasoner_jax.evaluation.benchmarks.row import Row, natural
from pixel_reasoner_jax.evaluation.benchmarks.rows import JsonRows, RowError, Rows, read_json
from pixel_reasoner_jax.processing.decoding import VideoFile
from pixel_reasoner_jax.processing.sources import MediaError

PER_TASK = 200
FRAMES_FPS = 3.0  # of videos that are folders of frames
FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")

_CLEVRER, _PERCEPTION = ("clevrer/video_validation",), ("perception/videos",)
_CHARADES = ("star/Charades_v1_480",)
WHOLE = {
    "action_sequence": _CHARADES,
    "action_prediction": _CHARADES,
    "action_antonym": ("ssv2_video",),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "unexpected_action": ("FunQA_test/test",),
    "object_existence": _CLEVRER,
    "object_interaction": _CHARADES,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": ("sta/sta_video",),
    "scene_transition": ("scene_qa/video",),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": ("nturgbd",),
    "character_order": _PERCEPTION,
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/frames_fps3_hq",),
    "counterfactual_inference": _CLEVRER,
}
"""The tasks, and the folders of their videos in the first layout, of which some are cut by `start` and `end`."""

CUT = {
    "action_sequence": ("star/Charades_segment",),
    "action_prediction": ("star/Charades_segment",),
    "object_interaction": ("star/Charades_segment",),
    "action_localization": ("sta/sta_video_segment",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment",),
    "action_antonym": ("ssv2_video_mp4",),
    "fine_grained_pose": ("nturgbd_convert",),
}
"""The folders of the second layout where it has others: their videos are cut already."""

ROOTS = ("video", "", "data0613", "video/data0613")


class MVBench(Benchmark):
    """MVBench in one of its layouts: `json/<task>.json` beside `video/`, or `test.json` with clips cut already.

    Category `task`; the headline figure is the mean over the tasks, which are of one size.
    """

    name = "mvbench"
    title = "MVBench"
    forms = (
        Form("cut clips", ("test.json",), "read_original", ("video", "question", "candidates", "answer", "task")),
        Form(
            "a JSON file for every task",
            (tuple(f"json/{task}.json" for task in WHOLE), tuple(f"{task}.json" for task in WHOLE)),
            "read_original",
            ("video", "question", "candidates", "answer"),
        ),
        RELEASED,
    )
    scorer = "choice"
    scorers = ("choice", "mvbench-authors", "mvbench-lmms-eval", "vlmevalkit-letter", "pixel-reasoner")
    prompts = {
        "plain": Prompt(),
        "authors": Prompt("Question: {question}\nOptions:\n{options}\n\nOnly give the best option."),
        "lmms-eval": Prompt("Question:{question}\nOption:\n{options}\nOnly give the best option.\n"),
    }

    def open_rows(self, form: Form, path: Any) -> Rows:
        if form is not self.forms[0]:
            return super().open_rows(form, path)
        value = read_json(path)
        tasks, roots = (value.get(key) if isinstance(value, Mapping) else None for key in ("meta", "root"))
        if not isinstance(tasks, Mapping):
            return JsonRows(path, [])
        roots = roots if isinstance(roots, Mapping) else {}
        return JsonRows(path, [row for task, items in tasks.items() for row in _task_rows(task, items, roots)])

    def categories(self, row: Row) -> dict[str, str]:
        task = _task(row)
        return {"task": task} if task in WHOLE else {}

    def remarks(self) -> list[str]:
        if self.form is RELEASED:
            return []
        counts = dict.fromkeys(WHOLE, 0)
        for index, (named,) in enumerate(self.rows.light(("task",))):
            task = _snake(str(named or self.rows.locate(index)[0].stem))
            counts[task] = counts.get(task, 0) + 1
        missing = [task for task, count in counts.items() if not count]
        odd = [f"{task} {count}" for task, count in counts.items() if count not in (0, PER_TASK)]
        notes = (
            [f"{self.title}: {len(missing)} of {len(WHOLE)} tasks are missing: {', '.join(missing)}"] if missing else []
        )
        return notes + ([f"{self.title}: {PER_TASK} rows of a task are published; {', '.join(odd)}"] if odd else [])

    def read_original(self, row: Row) -> Item:
        task = _task(row)
        if task not in WHOLE:
            raise RowError(f"there is no task {shown(task)}")
        options = row.texts("candidates")
        if len(options) < 2:
            raise RowError("it has fewer than two options")
        right = index_of_text(row.text("answer"), options)
        path, cut = _find(row, task)
        clip = None
        if not cut and row.get("start") is not None and row.get("end") is not None:
            clip = Clip(row.seconds("start"), row.seconds("end"))
        item = Item("", row.text("question"), tuple(options), right)
        if not os.path.isdir(path):
            VideoFile(path)
            return dataclasses.replace(item, video=path, clip=clip)
        return dataclasses.replace(item, video=_frames(row, path, clip), fps=FRAMES_FPS)

    def read_released(self, row: Row) -> Item:
        return read_released(row, self.name, choices=True)


def _task_rows(task: str, items: Any, roots: Mapping[str, Any]) -> list[Any]:
    root = roots.get(task, "")
    return [
        {**item, "task": task, "root": root} if isinstance(item, Mapping) else RowError("a row is no object")
        for item in (items if isinstance(items, list) else [])
    ]


def _task(row: Row) -> str:
    return _snake(str(row.get("task") or pathlib.PurePath(str(row.path)).stem))


def _snake(task: str) -> str:
    return task.strip().lower().replace(" ", "_").replace("-", "_")


def _find(row: Row, task: str) -> tuple[str, bool]:
    """The path of a row's video, and whether it is cut already."""
    video = row.text("video")
    whole = [_join(root, folder, video) for folder in WHOLE[task] for root in ROOTS]
    cut = [_join(root, folder, video) for folder in CUT.get(task, ()) for root in ROOTS]
    if given := row.get("root"):
        named = [_join(root, str(given), video) for root in ("", "video")]
        return row.first_file([*named, *cut, *whole]), True
    try:
        return row.first_file(whole), False
    except MediaError:
        if not cut:
            raise
        return row.first_file(cut), True


def _join(*parts: str) -> str:
    return "/".join(part.strip("/") for part in parts if part)


def _frames(row: Row, folder: str, clip: Clip | None) -> list[str | bytes]:
    """The frames of a folder that lie in the clip, each decoded once."""
    names = [entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(FRAME_SUFFIXES)]
    if not names:
        raise MediaError(f"{folder}: no frames in it")
    frames = sorted(names, key=natural)
    if clip is not None:
        first, last = clip.bounds(len(frames), FRAMES_FPS)
        frames = frames[first : last + 1]
    return [row.image(frame) for frame in frames]
