"""A text."""

TEXT = "To be, or not to be: that is the question.\n" * 50
