"""The few-shot benchmark: tasks x methods x repeats, and the statistics of their scores."""
