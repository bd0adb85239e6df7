"""What a cell's file is written with: see `gated`."""

from rnnlab.cells.parts.gated import Options, bernoulli, gated_cell, layer_norm, named

__all__ = ["Options", "bernoulli", "gated_cell", "layer_norm", "named"]
