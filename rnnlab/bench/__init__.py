"""This machine: how fast rnnlab is beside PyTorch and Flax, and whether it computes right."""
