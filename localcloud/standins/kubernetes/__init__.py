"""Stand-in of Kubernetes with the Spark Operator: the API, the operator, and a node that runs pods as processes."""
