"""The vocabulary of the project: models, clients and rules that workers, command line, pods and stand-ins share."""
