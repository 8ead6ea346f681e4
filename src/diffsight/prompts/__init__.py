"""Prompts: modules that turn the texts of a batch into the condition of the UNet."""

from diffsight.prompts.aggregated import Aggregated
from diffsight.prompts.base import AbstractPrompt
from diffsight.prompts.classes import ClassTokens
from diffsight.prompts.concept import Concepts
from diffsight.prompts.learned_sentences import LearnedSentences
from diffsight.prompts.learned_tokens import LearnedTokens
from diffsight.prompts.sentences import Sentences
from diffsight.prompts.text import TextTable
from diffsight.prompts.unprompted import Unprompted

__all__ = [
    "AbstractPrompt",
    "Aggregated",
    "ClassTokens",
    "Concepts",
    "LearnedSentences",
    "LearnedTokens",
    "Sentences",
    "TextTable",
    "Unprompted",
]
