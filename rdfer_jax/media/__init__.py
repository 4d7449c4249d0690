"""Images and videos: read, check, decode, write."""
