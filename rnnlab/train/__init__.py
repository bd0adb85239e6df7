"""The train step, the loop, and one run's record."""
