"""What authors of plugins are given: a project to begin with (`pk new plugin`) and a check of what they wrote (`pk check`).

No code of a plugin runs here: everything is read from its files.
"""
