"""The stand-ins: local servers that speak the wire protocols of the cloud services."""
