"""Mutation testing: put small realistic faults into the code one by one, and list those that no test notices."""
