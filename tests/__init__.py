"""Tests mirror src/diffsight file for file; shared contract tests are in contracts/."""
