"""The parts that bodies are built of: attention, norms, rotary positions, feed-forward."""
