"""The kernel's own plugins, one folder for each capability, all of one shape."""
