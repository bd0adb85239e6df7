"""What a cell's file is written with: see `gated`."""

from rnnlab.cells.parts.gated import Options, build, draw, layer_norm, named

__all__ = ["Options", "build", "draw", "layer_norm", "named"]
