"""Cells stacked between an input and a readout; encoders, a decoder, beam search, sampling; interop."""
