"""metrics.jsonl is the truth of a run's progress; Weights & Biases gets the same rows as a view."""
