"""What is wrong with an expression of PromQL, seen from the metrics that the service has.

The parser is Prometheus' grammar. Beyond that, every selector must select a series that `/metrics`
really has, counters are read through the functions that know of restarts, and gauges are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import promql_parser
from promql_parser import (
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    Matcher,
    MatchOp,
    MatrixSelector,
    ParenExpr,
    SubqueryExpr,
    UnaryExpr,
    VectorSelector,
)

from limiter.metrics import FAMILIES, Metrics

# What Prometheus adds to every series of a target, and the metric that it makes of the target.
TARGET_LABELS = {"job": "limiter", "instance": "limiter.internal:8080"}
UP = "up"

# What the board puts in before it asks.
VARIABLES = {"$__rate_interval": "1m", "$job": "limiter", "$instance": ".+"}

# The only ways to read what restarts at zero.
OF_COUNTERS = {"rate", "increase"}
PIECES = ("_bucket", "_sum", "_count")


def samples() -> list[tuple[str, dict[str, str]]]:
    """Every series of a service's `/metrics`, by name and labels, as a Prometheus has it."""
    found = [(UP, dict(TARGET_LABELS))]
    for family in Metrics().collect():
        found += [(each.name, {**each.labels, **TARGET_LABELS}) for each in family.samples]
    return found


SAMPLES = samples()
HISTOGRAMS = {family.name for family in FAMILIES if family.kind == "histogram"}
GAUGES = {UP, *(family.name for family in FAMILIES if family.kind == "gauge")}


def faults(expression: str) -> list[str]:
    """What is wrong, a sentence each. Raises ValueError for what is no PromQL."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    found: list[str] = []
    _look(promql_parser.parse(expression), None, found)
    return found


def metrics_of(expression: str) -> set[str]:
    """The names of the families that an expression asks for."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    names: set[str] = set()

    def visit(node: Expr) -> None:
        if isinstance(node, VectorSelector) and node.name is not None:
            names.add(_family(node.name))

    promql_parser.walk(promql_parser.parse(expression), visit)
    return names


def _family(name: str) -> str:
    """The histogram that a series is a piece of, or the name itself."""
    histogram = re.sub(rf"({'|'.join(PIECES)})$", "", name)
    return histogram if histogram in HISTOGRAMS else name


def _look(node: Expr, function: str | None, found: list[str]) -> set[str]:
    """Adds to `found` what is wrong below a node; returns the labels that its result has."""
    if isinstance(node, VectorSelector):
        return _look_at_selector(node, function, found)
    if isinstance(node, MatrixSelector):
        return _look_at_selector(node.vector_selector, function, found)
    if isinstance(node, AggregateExpr):
        labels = _look(node.expr, None, found)
        kept = set(node.modifier.labels) if node.modifier is not None else set[str]()
        if unknown := kept - labels:
            found.append(f"sums by {sorted(unknown)}, which nothing below has")
        return kept
    if isinstance(node, Call):
        labels = set[str]()
        for argument in node.args:
            labels |= _look(argument, node.func.name, found)
        if node.func.name == "histogram_quantile" and "le" not in labels:
            found.append("a quantile of what has no buckets")
        return labels - {"le"} if node.func.name == "histogram_quantile" else labels
    if isinstance(node, BinaryExpr):
        left, right = _look(node.lhs, None, found), _look(node.rhs, None, found)
        if left and right and left != right:
            found.append(f"{sorted(left)} never match {sorted(right)}")
        return left or right
    if isinstance(node, (ParenExpr, UnaryExpr, SubqueryExpr)):
        return _look(node.expr, function, found)
    return set()


def _look_at_selector(selector: VectorSelector, function: str | None, found: list[str]) -> set[str]:
    name = str(selector.name)
    named = [labels for sample, labels in SAMPLES if sample == name]
    if not named:
        found.append(f"there is no series {name}")
        return set()
    found += [
        f"{name} has no label {matcher.name}"
        for matcher in selector.matchers.matchers
        if matcher.name not in named[0]
    ]
    if not any(_fits(labels, selector.matchers.matchers) for labels in named):
        found.append(f"{selector.prettify()} selects nothing")
    is_gauge = _family(name) in GAUGES
    if is_gauge and function in OF_COUNTERS:
        found.append(f"{function} of {name}, which is a gauge")
    if not is_gauge and function not in OF_COUNTERS:
        found.append(f"{name} is read without rate or increase")
    return set(named[0])


def _fits(labels: Mapping[str, str], matchers: list[Matcher]) -> bool:
    for matcher in matchers:
        value = labels.get(matcher.name, "")
        if matcher.op in (MatchOp.Equal, MatchOp.NotEqual):
            is_met = value == matcher.value
        else:
            is_met = re.fullmatch(matcher.value, value) is not None
        if is_met != (matcher.op in (MatchOp.Equal, MatchOp.Re)):
            return False
    return True
