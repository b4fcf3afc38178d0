"""Where the key-encryption key lives: one file for each place."""
