"""The few-shot benchmark: tasks x methods x repeats, and what their figures say."""
