"""The states of queries, runs and datasets that people see: one word each, and the command that leads on. Pure functions of facts."""
