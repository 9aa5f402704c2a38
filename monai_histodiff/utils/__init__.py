"""What every wing stands on: files, weights, caches, shared memory, processes."""
