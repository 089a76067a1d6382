"""Tools of the repository: machine check, reference pages, schemas."""
