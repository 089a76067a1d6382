"""The rendering is stable, and every text gets a verdict."""

from __future__ import annotations

import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from cleanroom.sql import Catalog, View, check_sql, split_statements
from cleanroom.sql.vocabulary import FUNCTIONS
from tests.unit.sql.attacks import ON_OPEN_DATA, OVER_FLOORS
from tests.unit.sql.honest import GENERAL, TPCH
from tests.unit.sql.test_floors import ALLOWED_OVER_FLOORS
from tests.unit.sql.world import GUARDED, OPEN

TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize("sql", [*TPCH.values(), *GENERAL], ids=lambda sql: " ".join(sql.split())[:50].encode("ascii", "replace").decode())
def test_rewritten_query_is_rewritten_to_itself(sql: str) -> None:
    first = check_sql(split_statements(sql), OPEN)
    again = check_sql([segment.sql for segment in first.rewritten], OPEN)
    assert again.sql == first.sql


def test_rewritten_query_with_floors_is_rewritten_to_itself() -> None:
    without = Catalog(views=tuple(View(name=view.name, columns=view.columns) for view in GUARDED.views))
    for sql, _ in ALLOWED_OVER_FLOORS.values():
        verdict = check_sql(split_statements(sql), GUARDED)
        texts = [segment.sql.replace("__cr_", "cr_") for segment in verdict.rewritten]
        again = check_sql(texts, without)
        assert texts == [segment.sql for segment in again.rewritten], again.reasons


@given(value=TEXTS)
@settings(deadline=None)
def test_string_literal_keeps_its_value(value: str) -> None:
    literal = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    verdict = check_sql(f"SELECT {literal} AS s", OPEN)
    if not verdict.allowed:
        assert {reason.code for reason in verdict.reasons} <= {"InvisibleCharacter", "ParameterNotAllowed"}
        return
    (select,) = sqlglot.parse(verdict.sql, dialect="spark")
    assert select is not None
    assert select.expressions[0].this.this == value


WORDS = st.sampled_from(
    [
        "SELECT", "FROM", "WHERE", "GROUP BY", "HAVING", "ORDER BY", "LIMIT", "JOIN", "LEFT", "ON", "USING", "UNION ALL", "WITH", "AS",
        "(", ")", ",", ".", "*", "+", "-", "=", "<=>", "||", "`", "'", '"', "--", "/*", "*/", ";", "events", "users", "kind", "spend",
        "user_key", "`kind`", "1", "'x'", "NULL", "CASE", "WHEN", "THEN", "END", "COUNT(*)", "SUM", "OVER", "PARTITION BY", "IN",
        "EXISTS", "NOT", "AND", "OR", "BETWEEN", "LATERAL VIEW", "explode", "VALUES", "CREATE OR REPLACE TEMP VIEW", "v", "DISTINCT",
        "CAST", "INTERVAL", "DATE", "csv.`/x`", "[", "]", "{", ":", "->", "INSERT", "SET",
    ]
)  # fmt: skip


@given(words=st.lists(WORDS, max_size=25))
@settings(max_examples=400, deadline=None)
def test_random_words_get_a_verdict(words: list[str]) -> None:
    verdict = check_sql(" ".join(words), OPEN)
    assert verdict.allowed == (not verdict.reasons)
    if verdict.allowed:
        assert check_sql([segment.sql for segment in verdict.rewritten], OPEN).sql == verdict.sql


@given(
    sql=st.sampled_from([*TPCH.values(), *GENERAL, *ON_OPEN_DATA[:150], *OVER_FLOORS]),
    at=st.integers(0, 400),
    what=st.one_of(WORDS, TEXTS),
    cut=st.integers(0, 9),
)
@settings(max_examples=400, deadline=None)
def test_mutated_query_gets_a_verdict(sql: str, at: int, what: str, cut: int) -> None:
    for catalog in (OPEN, GUARDED):
        verdict = check_sql(sql[:at] + what + sql[at + cut :], catalog)
        assert verdict.allowed == (not verdict.reasons)
        for statement in sqlglot.parse(verdict.sql, dialect="spark"):
            assert statement is None or not any(table.args.get("db") for table in statement.find_all(exp.Table))


def test_vocabulary_contains_no_function_that_reaches_outside_of_the_query() -> None:
    names = """
        reflect java_method try_reflect current_user session_user user current_catalog current_database current_schema version
        input_file_name input_file_block_start input_file_block_length rand random randn uuid shuffle monotonically_increasing_id
        spark_partition_id raise_error assert_true from_csv from_json schema_of_csv schema_of_json transform aes_encrypt aes_decrypt
        stack inline json_tuple read_files secret parse_url xpath url_decode try_secret current_timezone randstr uniform
        grouping_sets map_filter aggregate reduce zip_with exists forall filter
    """
    assert not set(names.upper().split()) & FUNCTIONS.keys()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *((text, "ParenthesesNeeded") for text in (
            "'5' || 9 + 1", "b = b < b", "1 BETWEEN 0 AND 2 = TRUE", "a + NOT b", "s IS NULL = b", "b = NOT d",
            "a <=> NOT b", "s NOT BETWEEN NOT a AND c", "EXISTS (SELECT 1) IS NOT NULL", "a IN ((SELECT a FROM t))",
        )),
        *((text, "ExpressionNotAllowed") for text in (
            "+s", "a - +s", "TRIM(BOTH +s FROM s)", "b IS UNKNOWN", "b IS NOT UNKNOWN", "s ISNULL", "s NOTNULL", "s NOT NULL",
            "s LIKE ANY (s)", "0.5 -> a", "1 | 2 & 0", "TRIM(NOT b FROM s)",
        )),
        ("-1::string", "TypeNotAllowed"), ("DATEDIFF(DAY, b AND d, s)", "WrongArguments"),
        *((text, "Unparsable") for text in (
            "s BETWEEN a a AND c", "s BETWEEN 1 9", "CASE WHEN b 1 END", "CAST(a AS INT", "COUNT(*) FILTER (b)",
            "CONCAT(, s)", "s 'x'",
            "s AS 3, s", "SUM(a) OVER (PARTITION BY ORDER BY a)", "SUM(a) OVER (ORDER BY a ROWS 1 PRECEDING AND 1 FOLLOWING)",
        )),
        *((text, "LiteralNotAllowed") for text in ("DATE 0", "DATE '5'", "DATE '2024-02-30'", "DATE '2024-01-01' 'x'", "INTERVAL (1) DAY")),
        ("INTERVAL 1 QUARTER", "LiteralNotAllowed"), ("FIRST(DISTINCT -1)", "WrongArguments"), ("LAST(DISTINCT a)", "WrongArguments"),
    ],
)  # fmt: skip
def test_form_that_spark_reads_differently_or_not_at_all_is_refused(text: str, code: str) -> None:
    catalog = Catalog.model_validate({"views": {"t": {"a": "integer", "c": "integer", "b": "boolean", "d": "boolean", "s": "string"}}})
    (reason,) = check_sql(f"SELECT {text} AS v FROM t", catalog).reasons
    assert reason.code == code, reason
    assert reason.position is not None or "not closed" in reason.message


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a FROM t ORDER BY a WHERE b", "SELECT a FROM t LIMIT 3 ORDER BY a", "SELECT a FROM t WHERE b JOIN t u USING (a)",
        "SELECT a FROM t HAVING COUNT(*) > 1 GROUP BY a", "FROM t SELECT a JOIN t u USING (a)",
        "SELECT a FROM t UNION SELECT a FROM t LIMIT 1 ORDER BY a",
    ],
)  # fmt: skip
def test_clauses_in_an_order_that_spark_does_not_read_are_refused(text: str) -> None:
    (reason,) = check_sql(text, Catalog.model_validate({"views": {"t": {"a": "integer", "b": "boolean"}}})).reasons
    assert (reason.code, reason.position is not None) == ("Unparsable", True)


@pytest.mark.parametrize("text", ["SELECT a FROM t WHERE (b)", "SELECT a FROM (SELECT a FROM t WHERE (b)) u GROUP BY a"])
def test_clause_that_spark_reads_as_an_alias_is_refused(text: str) -> None:
    (reason,) = check_sql(text, Catalog.model_validate({"views": {"t": {"a": "integer", "b": "boolean"}}})).reasons
    assert reason.code == "ParenthesesNeeded"


@pytest.mark.parametrize(
    ("text", "rendering"),
    [
        ("NOT (s LIKE 'a')", "NOT (`t`.`s` LIKE 'a')"), ("NOT s LIKE 'a'", "NOT (`t`.`s` LIKE 'a')"),
        ("NOT (s = 'a' AND s > 'b')", "NOT (`t`.`s` = 'a' AND `t`.`s` > 'b')"), ("NOT NOT s IN ('a')", "NOT (NOT (`t`.`s` IN ('a')))"),
        ("s || ('a' || 'b')", "`t`.`s` || 'a' || 'b'"),
        ("EXTRACT(YEAR FROM (s = s))", "EXTRACT(YEAR FROM (`t`.`s` = `t`.`s`))"),
    ],
)  # fmt: skip
def test_condition_is_rendered_with_the_parentheses_that_spark_needs(text: str, rendering: str) -> None:
    verdict = check_sql(f"SELECT {text} AS v FROM t", Catalog.model_validate({"views": {"t": {"s": "string"}}}))
    assert verdict.allowed, verdict.reasons
    assert rendering in verdict.sql


def test_names_and_stars_of_a_join_by_using_are_those_of_spark() -> None:
    views = {"t": {"a": "integer", "c": "integer"}, "u": {"a": "integer", "k": "string"}, "v": {"k": "string", "a": "integer"}}
    catalog = Catalog.model_validate({"views": views})
    (reason,) = check_sql("SELECT a FROM t JOIN u USING (a) JOIN v ON u.k = v.k", catalog).reasons
    assert reason.code == "AmbiguousColumn"
    for text, columns in {
        "t JOIN u USING (a) JOIN v ON u.k = v.k": "a c k k_2 a_2",
        "t JOIN u USING (a) JOIN v USING (k)": "k a c a_2",
        "t LEFT SEMI JOIN u USING (a)": "a c",
    }.items():
        assert [column.name for column in check_sql(f"SELECT * FROM {text}", catalog).output] == columns.split()


def test_star_after_a_relation_is_refused() -> None:
    catalog = Catalog.model_validate({"views": {"t": {"a": "integer", "d": "date"}}})
    for text in ("SELECT a FROM t * u", "SELECT u.a FROM t u JOIN t * v ON u.a = v.a"):
        assert check_sql(text, catalog).reasons[0].code == "Unparsable"
    assert check_sql("SELECT EXTRACT(YEAR FROM d) * a AS x, a <=> a * 2 AS y FROM t", catalog).allowed


T = Catalog.model_validate({"views": {"t": {"a": "integer", "b": "boolean", "s": "string"}}})


@pytest.mark.parametrize("escape", ["\\0", "\\d", "\\u0041", "\\101", "\\Z", "\\b"])
def test_escape_that_readers_may_take_for_another_character_is_refused(escape: str) -> None:
    (reason,) = check_sql(f"SELECT '{escape}' AS v", T).reasons
    assert (reason.code, reason.position is not None) == ("LiteralNotAllowed", True)


@pytest.mark.parametrize("text", ["'a\\'b'", "'a\\nb\\t'", "'50\\%'", "'a\\\\d'"])
def test_escape_is_rendered_as_its_character(text: str) -> None:
    rendering = {"'50\\%'": "'50\\\\%'"}.get(text, text)
    assert f"{rendering} AS `v`" in check_sql(f"SELECT {text} AS v", T).sql


def test_intersect_binds_tighter_than_union_as_in_spark() -> None:
    one, two = (check_sql(f"SELECT a FROM t {text}", T).sql for text in (
        "UNION SELECT a FROM t INTERSECT SELECT 1", "UNION (SELECT a FROM t INTERSECT SELECT 1)",
    ))  # fmt: skip
    assert one == two
    assert one != check_sql("(SELECT a FROM t UNION SELECT a FROM t) INTERSECT SELECT 1", T).sql


def test_condition_of_filter_does_not_group_its_column() -> None:
    assert [reason.code for reason in check_sql("SELECT COUNT(*) FILTER (WHERE b) AS n, b FROM t", T).reasons] == ["NotGrouped"]


def test_alias_in_qualify_leaves_its_column_as_it_is() -> None:
    verdict = check_sql("SELECT s AS k FROM t QUALIFY k = 'x' AND ROW_NUMBER() OVER (ORDER BY a) = 1", T)
    assert "`t`.`s` AS `k`" in verdict.sql
    assert "QUALIFY (`k` = 'x'" in verdict.sql


@pytest.mark.parametrize("text", ["(a)", "((t.a))", "DISTINCT(a)", "DISTINCT (t.`a`)"])
def test_column_in_parentheses_keeps_its_name_as_in_spark(text: str) -> None:
    verdict = check_sql(f"SELECT {text} FROM t", T)
    assert [column.name for column in verdict.output] == ["a"]
    assert "`t`.`a` AS `a`" in verdict.sql
    assert [column.name for column in check_sql("SELECT (a) + 1 FROM t", T).output] == ["_c0"]
