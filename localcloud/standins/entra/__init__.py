"""Stand-in of Entra ID: discovery, tokens, federated assertions."""
