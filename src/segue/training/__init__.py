"""The training loop for networks: optimizers, schedules, losses, callbacks and checkpoints."""
