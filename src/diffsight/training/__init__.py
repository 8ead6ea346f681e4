"""Training: batches, the training step, the plain loop, and the Lightning trainer of ``fit``."""
