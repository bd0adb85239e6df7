"""What the gradients of a model did, and why: a section a file."""
