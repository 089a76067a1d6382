"""Stand-in of Azure Key Vault: keys with release policies and secure key release."""
