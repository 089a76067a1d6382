"""Spark settings of the pod: a second line of defence, in case the gate accepts a harmful query.

The pod sets every one of these keys when it creates its session; none may come from the job. The values also fix the dialect that the
gate assumes (case, quoting, ordinals), so that a session default cannot change the meaning of a checked text.

Reference: https://spark.apache.org/docs/latest/configuration.html and https://spark.apache.org/docs/latest/sql-ref-ansi-compliance.html
"""

from __future__ import annotations

_SQL = {
    # A name never refers to a file, another catalogue or Hive.
    "spark.sql.runSQLOnFiles": "false",
    "spark.sql.catalogImplementation": "in-memory",
    "spark.sql.legacy.allowHashOnMapType": "false",
    "spark.sql.sources.default": "parquet",
    "spark.sql.globalTempDatabase": "global_temp",
    # A query cannot run code: reflection and TRANSFORM fail during analysis (since Spark 4.3), and SQL scripts are off.
    "spark.sql.restrictedMode.enabled": "true",
    "spark.sql.reflect.allowList": "(?!)",
    "spark.sql.scripting.enabled": "false",
    # Spark substitutes nothing into the text, and reads string literals as the gate does.
    "spark.sql.variable.substitute": "false",
    "spark.sql.parser.escapedStringLiterals": "false",
    "spark.sql.legacy.consecutiveStringLiterals.enabled": "false",
    "spark.sql.ansi.doubleQuotedIdentifiers": "false",
    "spark.sql.parser.quotedRegexColumnNames": "false",
    "spark.sql.legacy.setopsPrecedence.enabled": "false",
    "spark.sql.legacy.parser.havingWithoutGroupByAsWhere": "false",
    # The meaning of names and ordinals.
    "spark.sql.caseSensitive": "false",
    "spark.sql.groupByOrdinal": "true",
    "spark.sql.orderByOrdinal": "true",
    "spark.sql.groupByAliases": "true",
    "spark.sql.session.timeZone": "UTC",
    # A value that cannot be divided, cast or parsed fails the run instead of silently changing the result. A failed run reveals one
    # bit about the rows to the analyst; the pod keeps the value itself out of every message.
    "spark.sql.ansi.enabled": "true",
    # Errors and plans must not write values of rows to logs.
    "spark.sql.debug.maxToStringFields": "0",
    "spark.sql.maxMetadataStringLength": "100",
    "spark.sql.redaction.string.regex": "(?s).*",
    "spark.sql.repl.eagerEval.enabled": "false",
    "spark.sql.artifact.isolation.enabled": "false",
}

_PROCESS = {
    # No web UI, event log or remote endpoint, and no plugins.
    "spark.ui.enabled": "false",
    "spark.eventLog.enabled": "false",
    "spark.plugins": "",
    "spark.sql.extensions": "",
    "spark.sql.streaming.streamingQueryListeners": "",
    "spark.redaction.regex": "(?i)secret|password|token|access[.]?key|credential|sas",
}


def locked_spark_conf() -> dict[str, str]:
    """All settings, by name. They must be set before the session is created."""
    return {**_PROCESS, **_SQL}


def locked_sql_conf() -> dict[str, str]:
    """The ``spark.sql.*`` settings, to verify a running session."""
    return dict(_SQL)
