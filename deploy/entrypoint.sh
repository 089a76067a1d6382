#!/bin/sh
# Entry point of a run's pods. Spark on Kubernetes passes `driver ...` or `executor`. -P excludes the working folder from imports.
exec /opt/cleanroom/bin/python -P -m sparkapp.launch "$@"
