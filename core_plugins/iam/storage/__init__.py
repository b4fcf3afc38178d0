"""Every SQL statement of the plugin, one module for each kind of thing."""
