"""A cell over time, back through time, and what can be seen inside it."""
