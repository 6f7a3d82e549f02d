"""The dashboard and the alerts speak only of metrics and labels that there are."""

import json
import re

import pytest
import yaml

from pneumonia.served.counters import COUNTERS, LABELS, SECONDS
from tests.conftest import ROOT

DEPLOY = ROOT / "docs" / "deploy"
HTTP = {"pneumonia_http_requests_total": {"status"}}
HISTOGRAMS = {SECONDS: {*LABELS, "part"}, "pneumonia_http_seconds": set()}
KNOWN = {f"{name}_total": {*LABELS, *more} for name, (_, more) in COUNTERS.items()} | HTTP
for name, labels in HISTOGRAMS.items():
    KNOWN |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": {*labels, "le"}}

dashboard = json.loads((DEPLOY / "grafana.json").read_text())
alerts = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
EXPRESSIONS = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
EXPRESSIONS += [rule["expr"] for rule in alerts]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_what_there_is(expression):
    names = re.findall(r"pneumonia_\w+", expression)
    assert names
    assert set(names) <= KNOWN.keys()
    wanted = {label for listed in re.findall(r"by \(([^)]*)\)", expression) for label in listed.split(", ")}
    wanted |= set(re.findall(r"[{,](\w+)=~?\"", expression))
    assert all(wanted <= KNOWN[name] for name in names)
    assert expression.count("(") == expression.count(")")


def test_there_are_panels_and_alerts():
    assert len(dashboard["panels"]) == len({panel["id"] for panel in dashboard["panels"]}) >= 6
    assert {rule["alert"] for rule in alerts} == {"PneumoniaServerFails", "PneumoniaUnfamiliarFilms"}
    assert all({"expr", "for", "labels", "annotations"} <= rule.keys() for rule in alerts)
