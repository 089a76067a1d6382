"""Inputs and results of workflows, activities, signals, updates and queries. No message contains a secret.

The models are outside of the workflow modules, so that the workflow sandbox does not build them again for each workflow.
"""
