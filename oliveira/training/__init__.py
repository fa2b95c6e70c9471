"""The one training loop, its optimisers, schedules, checkpoints and curves."""
