"""Stand-in of Clean Room Governance: the application's routes, the members' proxy, the sidecar."""
