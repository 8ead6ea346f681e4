"""What conditions the UNet."""

from diffsight.prompts.aggregated import Aggregated
from diffsight.prompts.classes import ClassTokens
from diffsight.prompts.concept import Concepts
from diffsight.prompts.learned_sentences import LearnedSentences
from diffsight.prompts.sentences import Sentences
from diffsight.prompts.text import TextTable

Prompts = TextTable | ClassTokens | Sentences | LearnedSentences | Aggregated

__all__ = [
    "Aggregated",
    "ClassTokens",
    "Concepts",
    "LearnedSentences",
    "Prompts",
    "Sentences",
    "TextTable",
]
