"""Stage `generate`: complete a task's questions with a model, under a budget of thinking tokens."""

VERSION = 1
