"""Tests mirror src/diffsight file for file; shared testers are in contracts.py."""
