"""Running models: plans, the predictor, ``pipeline``, evaluation, and files of predictions."""

from diffsight.inference.pipeline import Pipeline, pipeline
from diffsight.inference.plan import Plan
from diffsight.inference.predictor import Predictor, SharedLatents

__all__ = ["Pipeline", "Plan", "Predictor", "SharedLatents", "pipeline"]
