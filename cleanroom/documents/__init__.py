"""Dataset and query documents, and the YAML files from which they are generated."""
