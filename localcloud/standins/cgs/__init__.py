"""Stand-in of Clean Room Governance: the application's routes and the members' proxy."""
