"""The command line ``cleanroom``.

* The modules of this package are the commands: each parses arguments, calls an operation, and prints the result.
* :mod:`starters.operations` does the work: it starts workflows, signs statements, and reads governance and Temporal.
* :mod:`starters.terminal` formats output, prints errors, and ends the process.
"""
