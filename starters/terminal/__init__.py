"""Input and output of the command line: streams, tables, charts, errors, exit codes."""
