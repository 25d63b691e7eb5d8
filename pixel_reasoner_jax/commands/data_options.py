"""What commands that make, read and write data sets take; see `options`."""

from __future__ import annotations

import argparse

from pixel_reasoner_jax.commands.model_options import own, requests
from pixel_reasoner_jax.config_values import DTYPES

CAPTIONS = "~/.cache/pixel_reasoner_jax/captions"  # where answers of captioning models are kept

SOURCES = {
    "table": "FILE.jsonl, .json, .csv or .parquet: one annotated query a row",
    "masks": "FOLDER of SA-1B: images with JSON files of masks",
    "web": "FILE.jsonl: screenshots with answer boxes",
    "star": "FILE.json of STAR: questions with answer windows",
    "ocr": "FOLDER of TextVQA or InfographicsVQA, with OCR boxes",
    "tfds": "FILE.json: any TFDS data set with boxes, and a field map",
    "pixel-search": "SPLIT of the procedural world of images",
    "pixel-search-video": "SPLIT of the world of videos",
}

MASKS = {
    "last-call": "all that the assistant wrote, but of its calls the last one alone, if it succeeded",
    "last-two-turns": "the last two turns of the assistant, as the released training does",
    "all": "all that the assistant wrote",
}


def synthesize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        required=True,
        nargs="+",
        action="extend",
        metavar="KIND:PATH",
        help="where the seeds come from; of several, each in turn",
    )
    parser.add_argument("--count", type=int, required=True, metavar="N", help="trajectories wanted")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the data set; an unfinished or smaller one goes on"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all choices (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads (default: %(default)s)")
    parser.add_argument(
        "--shard-size", type=int, default=128, metavar="N", help="seeds written at once (default: %(default)s)"
    )
    parser.add_argument(
        "--padding", type=float, default=0.1, help="of the crop operation, as in training (default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="checkpoint directory whose budgets of pixels are taken; the released ones if not",
    )
    parser.add_argument("--media-root", metavar="DIR", help="no image or video outside this folder is read")
    for medium in ("image", "video"):
        parser.add_argument(
            f"--{medium}-mix",
            type=_mix,
            metavar="KIND=SHARE,...",
            help=f"kinds of trajectory for {medium}s (default: the paper's)",
        )
    captions = parser.add_argument_group("captions", "who writes the text between the operations")
    captions.add_argument(
        "--captioner",
        type=_captioner,
        metavar="template|openai|model:DIR",
        default="template",
        help="fixed phrases; or a model that sees, behind an OpenAI-compatible endpoint; or a checkpoint of ours, which"
        " answers by itself with its own operations, and whose right answers are kept (default: %(default)s)",
    )
    captions.add_argument(
        "--samples", type=int, default=8, metavar="N", help="answers of model:DIR to a question (default: %(default)s)"
    )
    captions.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="type of the parameters of model:DIR (default: %(default)s)"
    )
    own(captions)
    captions.add_argument("--caption-model", default="gpt-4o", metavar="NAME", help="the model (default: %(default)s)")
    captions.add_argument(
        "--base-url",
        metavar="URL",
        help="of another server than OpenAI's; the key is OPENAI_API_KEY's, if it needs one",
    )
    captions.add_argument("--prompts", metavar="DIR", help="files of prompts in place of ours")
    captions.add_argument("--temperature", type=float, default=0.7, help="default: %(default)s")
    captions.add_argument(
        "--max-tokens", type=int, default=400, metavar="N", help="of a passage (default: %(default)s)"
    )
    requests(captions, timeout=120.0)
    captions.add_argument("--cache", metavar="DIR", help=f"of the model's answers (default: {CAPTIONS})")
    parser.epilog = "kinds of source:\n" + "\n".join(f"  {kind:20}{path}" for kind, path in SOURCES.items())


def _captioner(text: str) -> str:
    if text not in ("template", "openai") and not (text.startswith("model:") and text != "model:"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of template, openai and model:DIR")
    return text


def inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="PATH", help="a data set of trajectories or queries, or a table of them")
    parser.add_argument("--json", action="store_true", help="the figures alone, as JSON")
    parser.add_argument("--html", metavar="FILE", help="a page with the figures and the samples")
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="trajectories shown (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice (default: %(default)s)")
    parser.add_argument("--model", metavar="DIR", help="checkpoint directory whose processor counts tokens")


def import_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", nargs="+", metavar="FILE", help=".jsonl, .json, .csv or .parquet: see docs/data.md")
    parser.add_argument("--out", required=True, metavar="DIR", help="the data set to write")
    parser.add_argument(
        "--media-root",
        metavar="DIR",
        help="where relative paths of media start, and none leads out of (default: the folder of each table)",
    )
    parser.add_argument("--keep-paths", action="store_true", help="store the paths of media, not their bytes")
    rules = "; ".join(f"{name}: {meaning}" for name, meaning in MASKS.items())
    parser.add_argument(
        "--mask",
        choices=MASKS,
        default="last-call",
        help=f"what the loss covers where rows carry no flags of their own (default: %(default)s). {rules}",
    )
    parser.add_argument("--shard-size", type=int, default=1024, metavar="N", help="records in a shard")


def export_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DIR", help="a data set of trajectories or queries")
    parser.add_argument("--out", required=True, metavar="FILE", help=".jsonl or .parquet; media go into NAME_media/")


def _mix(text: str) -> dict[str, float]:
    """Shares from `kind=share,kind=share`."""
    try:
        pairs = [item.split("=") for item in text.split(",")]
        return {kind: float(share) for kind, share in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=SHARE,KIND=SHARE") from None
