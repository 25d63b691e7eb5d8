"""Video-MME: questions about short, medium and long videos."""

from __future__ import annotations

from pixel_reasoner_jax.evaluation.benchmarks.base import Benchmark, Form
from pixel_reasoner_jax.evaluation.benchmarks.items import Item, Prompt
from pixel_reasoner_jax.evaluation.benchmarks.options import index_of_letter, without_label
from pixel_reasoner_jax.evaluation.benchmarks.row import Row
from pixel_reasoner_jax.evaluation.benchmarks.rows import RowError
from pixel_reasoner_jax.processing.decoding import VideoFile
from pixel_reasoner_jax.processing.sources import MediaError

FOLDERS = ("data", "videos", "video", "")
SUFFIXES = (".mp4", ".MP4", ".mkv")
KINDS = {"duration": "duration", "domain": "domain", "sub_category": "subdomain", "task_type": "task"}


class VideoMME(Benchmark):
    """Video-MME. Categories `duration`, `domain`, `subdomain`, `task`; the questions of a video are one cluster.

    `extra["subtitles"]` is the path of a video's subtitles where there is one.
    """

    name = "videomme"
    title = "Video-MME"
    forms = (
        Form(
            "the original",
            ("videomme/test-*.parquet", "test-*.parquet", "*.parquet"),
            "read_row",
            ("videoID", "question", "options", "answer"),
            ("question_id",),
            sizes=(2700,),
        ),
    )
    scorer = "choice"
    scorers = ("choice", "mme-realworld", "vlmevalkit-letter")
    prompts = {
        "plain": Prompt(),
        "lmms-eval": Prompt(
            "Select the best answer to the following multiple-choice question based on the video and the subtitles."
            " Respond with only the letter (A, B, C, or D) of the correct option.\n{question}\n{options}",
            "{letter}. {text}",
        ),
        "vlmevalkit": Prompt("Question: {question}\n{options}\nAnswer: ", "{letter}. {text}"),
    }

    def categories(self, row: Row) -> dict[str, str]:
        return {kind: str(row.get(field)) for field, kind in KINDS.items() if row.get(field) is not None}

    def cluster(self, row: Row) -> str | None:
        return None if row.get("videoID") is None else str(row.get("videoID"))

    def read_row(self, row: Row) -> Item:
        labelled = row.texts("options")
        if len(labelled) < 2:
            raise RowError("it has fewer than two options")
        options = tuple(without_label(option, index) for index, option in enumerate(labelled))
        name = row.text("videoID")
        video = row.first_file([f"{folder}/{name}{suffix}".lstrip("/") for folder in FOLDERS for suffix in SUFFIXES])
        VideoFile(video)
        extra = {}
        try:
            extra["subtitles"] = row.first_file([f"{folder}/{name}.srt" for folder in ("subtitle", "subtitles")])
        except MediaError:
            pass
        right = index_of_letter(row.text("answer"), options)
        return Item("", row.text("question"), options, right, video=video, extra=extra)
