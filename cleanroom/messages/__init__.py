"""What workflows, activities, signals and queries say to each other: one frozen model in, one out. No secret is ever in one.

They live outside of the workflow modules, so that the sandbox never rebuilds them (perf.md, section d).
"""
