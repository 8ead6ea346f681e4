"""A local web page that labels images and trains a model while you paint."""
