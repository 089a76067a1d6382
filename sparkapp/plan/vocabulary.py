"""Operators and expressions that a plan may contain, by the names of Catalyst's classes. Everything else is refused.

The list contains no reflection, no user-defined functions, no files, no random numbers and nothing about the session. Calls of static
methods (``StaticInvoke``) are in the plans of some built-in functions; the methods must be Spark's own helpers for expressions.
"""

from __future__ import annotations

from sparkapp.plan.tree import Node, refused

OPERATORS = frozenset(
    {
        "Aggregate", "CTERelationDef", "CTERelationRef", "Distinct", "Except", "Expand", "Filter", "Generate", "GlobalLimit", "Intersect",
        "Join", "LocalLimit", "LocalRelation", "Offset", "OneRowRelation", "Project", "Sort", "SubqueryAlias", "Union", "View", "Window",
        "WithCTE",
    }
)  # fmt: skip

_NAMES = """
Alias AttributeReference Literal OuterReference TempResolvedColumn SortOrder Cast And Or Not Between With CommonExpressionDef
CommonExpressionRef EqualTo EqualNullSafe EqualNull GreaterThan GreaterThanOrEqual LessThan LessThanOrEqual In InSubquery ListQuery Exists
ScalarSubquery IsNull IsNotNull IsNaN IsUnknown IsNotUnknown Like LikeAll LikeAny ILike NotLikeAll NotLikeAny RLike StartsWith EndsWith
Contains If CaseWhen Coalesce Nvl Nvl2 NullIf NullIfResult NullIfZero ZeroIfNull Decode DecodeExpr NaNvl Greatest Least

Add Subtract Multiply Divide IntegralDivide Remainder Pmod UnaryMinus UnaryPositive Abs Round BRound RoundCeil RoundFloor Ceil Floor Rint
Signum Sqrt Cbrt Exp Expm1 Log Log10 Log1p Log2 Logarithm Pow Hypot Pi EulerNumber Sin Sinh Asin Asinh Cos Cosh Acos Acosh Tan Tanh Atan
Atanh Atan2 Cot Sec Csc ToDegrees ToRadians Factorial WidthBucket BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitwiseCount ShiftLeft
ShiftRight TryEval TryAdd TrySubtract TryMultiply TryDivide TryMod Bin Conv Hex ToNumber TryToNumber ToCharacter FormatNumber

Upper Lower InitCap StringTrim StringTrimBoth StringTrimLeft StringTrimRight Substring Left Right Concat ConcatWs StringReplace
StringTranslate StringLPad StringRPad StringRepeat StringSpace Chr Ascii Length OctetLength BitLength StringInstr StringLocate SplitPart
StringSplitSQL StringSplit SubstringIndex RegExpReplace RegExpExtract RegExpExtractAll RegExpSubStr RegExpCount RegExpInStr Reverse SoundEx
Levenshtein FindInSet FormatString Overlay Base64 Md5 Sha1 Sha2 Crc32 XxHash64 Murmur3Hash GetJsonObject StringDecode Encode

CurrentDate CurrentTimestamp Now ParseToDate ParseToTimestamp GetTimestamp DateAdd DateSub DateDiff DatetimeSub DateAddInterval
DateAddYMInterval TimestampAddInterval TimestampAddYMInterval TimestampAdd TimestampDiff AddMonths MonthsBetween LastDay NextDay TruncDate
TruncTimestamp MakeDate MakeTimestamp DateFromUnixDate UnixDate UnixSeconds UnixMillis UnixMicros UnixTimestamp ToUnixTimestamp FromUnixTime
SecondsToTimestamp MillisToTimestamp MicrosToTimestamp FromUTCTimestamp ToUTCTimestamp DateFormatClass DayName MonthName Year YearOfWeek
Quarter Month WeekOfYear WeekDay DayOfWeek DayOfMonth DayOfYear Hour Minute Second SecondWithFraction Extract DatePart SubtractDates
SubtractTimestamps ExtractANSIIntervalDays ExtractANSIIntervalHours ExtractANSIIntervalMinutes ExtractANSIIntervalMonths
ExtractANSIIntervalSeconds ExtractANSIIntervalYears MultiplyDTInterval MultiplyYMInterval DivideDTInterval DivideYMInterval MakeDTInterval

CreateArray CreateNamedStruct GetStructField GetArrayItem ElementAt TryElementAt Size ArraySize ArrayContains ArrayDistinct ArrayJoin
ArrayPosition ArraysOverlap ArrayUnion ArrayIntersect ArrayExcept ArrayCompact ArraySort SortArray Slice Sequence Explode PosExplode
GeneratorOuter ArrayFilter LambdaFunction NamedLambdaVariable KnownNotContainsNull

AggregateExpression Count CountIf HyperLogLogPlusPlus Sum Average StddevSamp StddevPop VarianceSamp VariancePop Corr CovPopulation CovSample
Skewness Kurtosis RegrCount RegrAvgX RegrAvgY RegrSXX RegrSYY RegrSXY RegrSlope RegrIntercept RegrR2 Min Max MinBy MaxBy First Last AnyValue
Mode Median
Percentile PercentileCont PercentileDisc ApproximatePercentile BitAndAgg BitOrAgg BitXorAgg BoolAnd BoolOr CollectList CollectSet
ListAgg Grouping GroupingID PivotFirst

WindowExpression WindowSpecDefinition SpecifiedWindowFrame CurrentRow$ UnboundedFollowing$ UnboundedPreceding$
RowNumber Rank DenseRank NTile
PercentRank CumeDist Lag Lead NthValue
"""
EXPRESSIONS = frozenset(_NAMES.split())
_HELPERS = "org.apache.spark.sql.catalyst."
"""Package of the static methods that plans of built-in functions call."""


def view_name(view: Node) -> str:
    """Lower-case name of a view."""
    return str(view.fields["desc"]["identifier"]["table"]).lower()


def require_known(plan: Node, leaves: frozenset[str]) -> list[Node]:
    """Require that a plan contains known operators and expressions only. Return the registered views that it reads.

    Args:
        plan: The plan.
        leaves: Lower-case names of the registered views, whose plans are not text.

    Raises:
        Refused: ``PlanOperatorNotAllowed`` or ``PlanExpressionNotAllowed``.
    """
    waiting, views = [plan], []
    while waiting:
        node = waiting.pop()
        if node.package.endswith(("plans.logical", "sql.execution")):
            if node.kind not in OPERATORS and not node.children:
                raise refused("PlanLeafUnknown", f"it reads {node.kind} instead of a registered view")
            if node.kind not in OPERATORS:
                raise refused("PlanOperatorNotAllowed", f"it contains the operator {node.kind}")
            if node.kind == "View" and view_name(node) in leaves:
                views.append(node)
                continue
        elif node.kind in ("StaticInvoke", "Invoke"):
            target = str(node.fields.get("staticObject", _HELPERS))
            if not target.startswith(_HELPERS):
                raise refused("PlanExpressionNotAllowed", f"it calls a method of {target}")
        elif node.kind not in EXPRESSIONS or not node.package.startswith("org.apache.spark.sql.catalyst."):
            raise refused("PlanExpressionNotAllowed", f"it contains the expression {node.kind}")
        waiting += node.children
        for value in node.fields.values():
            waiting += _trees(node, value)
    return views


def _trees(node: Node, value: object) -> list[Node]:
    """The trees in a member of a node."""
    if not isinstance(value, list) or not value:
        return []
    if isinstance(value[0], dict) and "class" in value[0]:
        return [node.read(value)]
    return [part for item in value for part in _trees(node, item)]
