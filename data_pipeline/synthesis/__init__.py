"""From seeds to trajectories: templates, deliberate mistakes, captioners, and the synthesizer that runs the plans."""

from data_pipeline.synthesis.captioner import Captioner, CaptionError, Passage, Spend, TemplateCaptioner
from data_pipeline.synthesis.synthesizer import BudgetMedia, SynthesisError, Synthesizer, run_plan
from data_pipeline.synthesis.templates import IMAGE_MIX, TEMPLATES, VIDEO_MIX, Plan, Scene, Step

__all__ = [
    "IMAGE_MIX",
    "TEMPLATES",
    "VIDEO_MIX",
    "BudgetMedia",
    "CaptionError",
    "Captioner",
    "Passage",
    "Plan",
    "Scene",
    "Spend",
    "Step",
    "SynthesisError",
    "Synthesizer",
    "TemplateCaptioner",
    "run_plan",
]
