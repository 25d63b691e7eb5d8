"""From seeds to trajectories: templates, deliberate mistakes, captioners, and the synthesizer that runs the plans."""

from data_pipeline.synthesis.captioner import Captioner, Passage, TemplateCaptioner
from data_pipeline.synthesis.synthesizer import Draft, SynthesisError, Synthesizer, run_plan
from data_pipeline.synthesis.templates import IMAGE_MIX, TEMPLATES, VIDEO_MIX, Plan, Scene, Step

__all__ = [
    "IMAGE_MIX",
    "TEMPLATES",
    "VIDEO_MIX",
    "Captioner",
    "Draft",
    "Passage",
    "Plan",
    "Scene",
    "Step",
    "SynthesisError",
    "Synthesizer",
    "TemplateCaptioner",
    "run_plan",
]
