"""Where random numbers, symbols, downloads and pictures come from."""
