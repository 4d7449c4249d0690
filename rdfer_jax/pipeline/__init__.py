"""The input pipeline, from records on disk to batches on the devices: source, loader, feed."""
