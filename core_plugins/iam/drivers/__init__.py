"""What the plugin needs from outside libraries that do their own work in threads."""
