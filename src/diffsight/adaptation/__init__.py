"""A new dense task from a few labelled images."""
