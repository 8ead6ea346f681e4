"""What conditions the UNet."""

from diffsight.prompts.concept import Concepts
from diffsight.prompts.text import TextTable

__all__ = ["Concepts", "TextTable"]
