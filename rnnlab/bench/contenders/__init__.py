"""What each library does in the benchmark: one file a library."""
