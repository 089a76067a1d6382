"""Jobs on Spark: the job configuration, pod policies, SparkApplications, and the Spark service that runs them."""
