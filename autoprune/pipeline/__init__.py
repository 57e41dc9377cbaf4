"""What each command does from its settings to its result, and what commands and Python share.

A session is opened, searchers run, plans are finished, the run folder is written. Nothing here reads a command line.
"""
