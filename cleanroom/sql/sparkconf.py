"""The second wall: Spark's own settings in the pod, under which a query that slipped through the gate still finds little.

Every key is one that the pod sets itself, when it makes its session; none may come from the job. The values also pin the
dialect that the gate assumes (case, quoting, ordinals), so that a session default cannot change what a checked text means.
"""

from __future__ import annotations

_SQL = {
    # No files, catalogues or Hive behind a name.
    "spark.sql.runSQLOnFiles": "false",
    "spark.sql.catalogImplementation": "in-memory",
    "spark.sql.legacy.allowHashOnMapType": "false",
    "spark.sql.sources.default": "parquet",
    "spark.sql.globalTempDatabase": "global_temp",
    # No code from the text: reflection and TRANSFORM scripts fail in analysis (Spark 4.3; both static), and no SQL scripts.
    "spark.sql.restrictedMode.enabled": "true",
    "spark.sql.reflect.allowList": "(?!)",
    "spark.sql.scripting.enabled": "false",
    # Nothing is substituted into the text, and a string is a string.
    "spark.sql.variable.substitute": "false",
    "spark.sql.parser.escapedStringLiterals": "false",
    "spark.sql.legacy.consecutiveStringLiterals.enabled": "false",
    "spark.sql.ansi.doubleQuotedIdentifiers": "false",
    "spark.sql.parser.quotedRegexColumnNames": "false",
    "spark.sql.legacy.setopsPrecedence.enabled": "false",
    "spark.sql.legacy.parser.havingWithoutGroupByAsWhere": "false",
    # The meaning of names and positions.
    "spark.sql.caseSensitive": "false",
    "spark.sql.groupByOrdinal": "true",
    "spark.sql.orderByOrdinal": "true",
    "spark.sql.groupByAliases": "true",
    "spark.sql.session.timeZone": "UTC",
    # A value that cannot be divided, cast or parsed ends the run instead of changing the answer in silence. That a run failed tells
    # the analyst one bit about the rows; the pod keeps the value itself out of every message.
    "spark.sql.ansi.enabled": "true",
    # Errors and plans must not carry values of rows into logs.
    "spark.sql.debug.maxToStringFields": "0",
    "spark.sql.maxMetadataStringLength": "100",
    "spark.sql.redaction.string.regex": "(?s).*",
    "spark.sql.repl.eagerEval.enabled": "false",
    "spark.sql.artifact.isolation.enabled": "false",
}

_PROCESS = {
    # No user interface, history or remote endpoints, and no code from elsewhere.
    "spark.ui.enabled": "false",
    "spark.eventLog.enabled": "false",
    "spark.plugins": "",
    "spark.sql.extensions": "",
    "spark.sql.streaming.streamingQueryListeners": "",
    "spark.redaction.regex": "(?i)secret|password|token|access[.]?key|credential|sas",
}


def locked_spark_conf() -> dict[str, str]:
    """Settings for the pod's Spark session, by name; to be set before the session exists."""
    return {**_PROCESS, **_SQL}


def locked_sql_conf() -> dict[str, str]:
    """The ``spark.sql.*`` part alone, for a check of a running session."""
    return dict(_SQL)
