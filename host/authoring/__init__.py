"""What authors of plugins are given: a project to begin with (`pk new plugin`) and a check of what they wrote (`pk check`).

A plugin's files are read; its code runs only in the trial at the end of `pk check`, in a process of its own.
"""
