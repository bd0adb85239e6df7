"""A run from outside: its config, machine, process, screen, folder and checkpoints. Knows no model."""
