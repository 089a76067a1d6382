"""Publishing to governance: descriptors and query documents, and the steps that bring a document to Accepted."""
