from diffsight.adaptation.adapt import adapt as adapt
from diffsight.hub import load as load
from diffsight.hub import push as push
from diffsight.hub import save as save
from diffsight.inference.api import evaluate as evaluate
from diffsight.inference.pipeline import pipeline as pipeline
from diffsight.model import DenseModel as DenseModel
from diffsight.training.fit import fit as fit

__version__: str
