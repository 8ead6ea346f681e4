from diffsight.inference.pipeline import Pipeline as Pipeline
from diffsight.inference.plan import Plan as Plan
from diffsight.inference.predictor import Predictor as Predictor
from diffsight.inference.shared_latents import SharedLatents as SharedLatents
