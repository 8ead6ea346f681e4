"""Shapes and types of every public function are checked while the tests run."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook("diffsight", "beartype.beartype")
