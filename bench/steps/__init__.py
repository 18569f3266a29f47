"""The parts of a training step: one student with its method, optimiser, schedule and random state."""
