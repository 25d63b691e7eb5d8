"""Questions about videos with the window of time that answers them, as in STAR (Situated Reasoning).

A JSON file with a list, as the benchmark is published, and the videos beside it or in a folder `videos`:

    [{"question_id": "Interaction_T1_13", "question": "Which object was tidied up by the person?",
      "video_id": "6H78U", "start": 11.1, "end": 19.6, "answer": "The closet/cabinet.",
      "choices": [{"choice_id": 0, "choice": "The closet/cabinet."}, {"choice_id": 1, "choice": "The blanket."}]}]

`start` and `end` are seconds. The evidence is the sampled frames between them, at most as many as one operation
selects. `choices` are written below the question with letters, since such questions cannot be answered without them;
the answer is then the letter with its text.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.seed import Seed
from data_pipeline.sources.base import ListReader, SourceEntry
from pixel_reasoner_jax.errors import shown
from pixel_reasoner_jax.rollout.choices import with_choices

VIDEO_SUFFIXES = ("mp4", "webm", "mkv", "avi", "mov")


class VideoWindows(Sequence):
    """The seeds of the JSON file `path`, in the form that the module documents."""

    def __init__(self, path: str):
        self._entries = ListReader(path)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Seed:
        entry = self._entries[index]
        window = (entry.get("start", (int, float)), entry.get("end", (int, float)))
        question, answer = _with_choices(entry)
        return Seed(
            id=f"star-{entry.get('question_id', (str, int), f'{index:06d}')}",
            question=question,
            answer=answer,
            video=self._video(entry),
            window=window,
            attributes={"video_id": entry.value["video_id"], "window": list(window)},
        )

    def _video(self, entry: SourceEntry) -> str:
        name = entry.text("video_id")
        for folder in (entry.folder, entry.folder / "videos"):
            for file in (folder / name, *(folder / f"{name}.{suffix}" for suffix in VIDEO_SUFFIXES)):
                if file.is_file():
                    return str(file)
        raise entry.error(f"there is no video {name} in {entry.folder} or its folder videos")


def _with_choices(entry: SourceEntry) -> tuple[str, str | list[str]]:
    """The question with its choices below it, and the answer in the form of a choice."""
    question, answer = entry.text("question"), entry.answer()
    choices = entry.get("choices", list, [])
    if not choices:
        return question, answer
    texts = [entry.part(choice, "choice").text("choice").strip() for choice in choices]
    right = answer if isinstance(answer, str) else answer[0]
    if right not in texts:
        raise entry.error(f"its answer {shown(right)} is none of its choices")
    return with_choices(question, right, texts)
