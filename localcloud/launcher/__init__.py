"""The launcher of the local cloud: it plans, starts, watches and stops the servers of one machine."""
