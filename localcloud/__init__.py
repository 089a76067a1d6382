"""The local cloud: stand-ins of the cloud services for one machine, and the launcher that runs them. NOT CONFIDENTIAL."""
