"""One paper, one file: how backbone, prompts, neck and head are wired."""
