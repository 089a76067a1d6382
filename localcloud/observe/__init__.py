"""A page that shows the traces and metrics of a local cloud: an OTLP/HTTP receiver, a scraper of the workers, and one HTML file."""
