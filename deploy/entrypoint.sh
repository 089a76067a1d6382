#!/bin/sh
# What Spark on Kubernetes starts in the pods of a run, as `driver …` or `executor`. -P: nothing is imported from the working folder.
exec /opt/cleanroom/bin/python -P -m sparkapp.launch "$@"
