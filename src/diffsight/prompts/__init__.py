"""What conditions the UNet."""

from diffsight.prompts.classes import ClassTokens
from diffsight.prompts.concept import Concepts
from diffsight.prompts.sentences import Sentences
from diffsight.prompts.text import TextTable

__all__ = ["ClassTokens", "Concepts", "Sentences", "TextTable"]
