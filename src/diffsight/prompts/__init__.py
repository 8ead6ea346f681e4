"""What conditions the UNet."""

from diffsight.prompts.text import TextTable

__all__ = ["TextTable"]
