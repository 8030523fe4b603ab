"""What the entry points run: training, testing, checkpoints, logs and reports."""
