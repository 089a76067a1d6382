"""A real Kubernetes cluster with a real Spark Operator on one machine, for the tests. ``docs/guides/test-cluster.md`` is its guide."""
