"""What the benchmarks of learning from teaching with labels share: `lot_language` and `lot_images`."""
