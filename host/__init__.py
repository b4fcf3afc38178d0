"""The minimal host: it loads plugins, runs the one pipeline, and knows no plugin by name."""
