"""One test per sequence diagram: the drawing in ``docs/diagrams.md`` equals the history of a real workflow, line by line.

Each ``test_*.py`` lists the lines of one diagram in the notation of :mod:`tests.diagrams.lines`. The test compares the list twice:
with the drawing, so that it has every line of it and no other, and with a history, so that each line is the activity that it says.
Where the code deviates from the drawing, the line names a deviation of :mod:`tests.diagrams.deviations`.
"""
