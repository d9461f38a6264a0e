"""What LSH attention is worth: one script a claim, each with peers in the same run. Run in `benchmarks/`."""
