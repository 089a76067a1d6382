"""The second check of a query: on the plan that Spark has made of the rewritten text.

The query gate (:mod:`cleanroom.sql`) reads a query with another parser than Spark and writes the conditions of the privacy floors into its
text. This package does not use the gate. It reads the analysed plan, which is what Spark executes, and requires what the gate promises:

* the leaves are registered views (:func:`sparkapp.plan_check.require_safe_plan`);
* operators and expressions are on a list (:mod:`~sparkapp.plan.vocabulary`);
* rows of persons leave only as groups with the conditions of the floors (:mod:`~sparkapp.plan.release`);
* they are joined by identities without a cast, or with relations that are unique on the compared columns
  (:mod:`~sparkapp.plan.joins`);
* group keys, conditions and results read only columns that their owners list (:mod:`~sparkapp.plan.expressions`).

What it does not understand, it refuses.
"""
