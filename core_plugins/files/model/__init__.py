"""What a blob's key, range, condition, upload and signed URL are. Pure: no I/O."""
