"""Stand-in of Azure Resource Manager: managed identities, federated credentials, role assignments."""
