"""What commands and Python share: a session is opened, searchers run, plans are finished, the run folder is written.

Nothing here reads a command line.
"""
