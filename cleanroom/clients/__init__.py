"""Clients of Azure and S3: credentials, managed identities, roles, and object stores behind one protocol."""
