"""Metrics as sums and counts, by what they are of: symbols and values, texts, boxes."""
