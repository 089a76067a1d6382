"""The integration with Temporal's SDK: connection, workers, payload encryption, failures, retries and visibility."""
