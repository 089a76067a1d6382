"""Stand-in of SEV-SNP hardware: reports in the real format under a development root."""
