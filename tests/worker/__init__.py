"""Workers: crashes, stops, queues, limits, metrics."""
