"""From seeds to trajectories: templates, deliberate mistakes, captioners, and the synthesizer that runs the plans."""

from data_pipeline.synthesis.captioner import Captioner, CaptionError, Passage, TemplateCaptioner
from data_pipeline.synthesis.synthesizer import BudgetMediaLoader, SynthesisError, Synthesizer, run_plan
from data_pipeline.synthesis.templates import (
    IMAGE_MIX,
    TEMPLATES,
    VIDEO_MIX,
    OperationTurn,
    TemplateContext,
    TrajectoryPlan,
)

__all__ = [
    "IMAGE_MIX",
    "TEMPLATES",
    "VIDEO_MIX",
    "BudgetMediaLoader",
    "CaptionError",
    "Captioner",
    "Passage",
    "TrajectoryPlan",
    "TemplateContext",
    "OperationTurn",
    "SynthesisError",
    "Synthesizer",
    "TemplateCaptioner",
    "run_plan",
]
