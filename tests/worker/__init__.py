"""Workers: crashes, shutdowns, queues, limits, metrics."""
