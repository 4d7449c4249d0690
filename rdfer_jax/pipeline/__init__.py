"""From records on disk to batches on the devices: source, sampling, decode, loader, feed."""
