"""The page: its head and style, the overview, and a section for each run."""

import json
from collections.abc import Sequence
from pathlib import Path

from summary.methods import METHODS
from summary.rows import data_label, make_rows, network_label

from dks_jax import models
from dks_jax.config import FIELDS, flatten
from report_page.gathering import Reported
from report_page.markup import Markup, element, table
from report_page.overview import method_chip, overview
from report_page.sections import calibration, confusion, disagreement, mistakes, per_class

STYLE = Path(__file__).with_name("page.css")
# The browser itself then refuses anything that is not in the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(reported: Sequence[Reported], left_out: Sequence[str]) -> Markup:
    """The whole page as HTML.

    Args:
      reported: the runs, at least one.
      left_out: lines on workdirs that are no part of the report.
    """
    rows = make_rows([own.run for own in reported])
    networks = list(dict.fromkeys(row.network for row in rows))
    title = f"{', '.join(networks[:3])}{' and others' if len(networks) > 3 else ''}"
    count = f"{len(reported)} {'run' if len(reported) == 1 else 'runs'}"
    lead = f"{count} on {'; '.join(dict.fromkeys(row.data for row in rows))}"
    links = [
        ("overview", "Overview"),
        *((f"run-{i}", own.name) for i, own in enumerate(reported, 1)),
    ]
    colours = "".join(f"--{method}: {colour};" for method, (_, colour) in METHODS.items())
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title}: {lead}"),
        # Without it a browser asks the server for an icon.
        element("link", rel="icon", href="data:,"),
        element("style", Markup(f":root {{ {colours} }}\n{STYLE.read_text(encoding='utf-8')}")),
    )
    body = element(
        "body",
        element(
            "header",
            element("p", "dks-jax report", class_="over"),
            element("h1", title),
            element("p", lead, class_="lead"),
            element(
                "nav",
                *(element("a", text, href=f"#{place}") for place, text in links),
                aria_label="Parts of the page",
            ),
        ),
        element(
            "main", overview(reported, rows, left_out), *(_run(own, i) for i, own in enumerate(reported, 1))
        ),
    )
    return Markup(f"<!doctype html>\n{element('html', head, body, lang='en')}\n")


def _run(own: Reported, number: int) -> Markup:
    """The section of one run."""
    name, run, _, outcome = own
    heading = element("h2", name, " ", method_chip(run.method))
    facts = f"{network_label(run.experiment)} on {data_label(run.experiment)}, seed {run.seed}, {run.folder}"
    parts = [heading, element("p", facts, class_="note")]
    if isinstance(outcome, str):
        parts.append(element("p", f"Not evaluated: {outcome}", class_="warning"))
    else:
        parts += [element("p", note[0].upper() + note[1:], class_="remark") for note in outcome.notes]
        parts.append(element("div", per_class(outcome), confusion(outcome), class_="beside"))
        parts += [part(outcome) for part in (calibration, mistakes, disagreement)]
    return element("section", *parts, _origin(own), class_="run", id=f"run-{number}")


def _origin(own: Reported) -> Markup:
    """The config of a run, first what differs from the defaults, and the versions of its training."""
    fields = flatten(own.description["config"])
    rows = FIELDS | {f"model.{name}": row for name, row in models.arguments(fields["model.name"]).items()}
    # As JSON has them: a tuple is a list there.
    defaults = json.loads(json.dumps({name: row.default for name, row in rows.items()}))
    chosen, others = [["field", "value"]], [["field", "value"]]
    for name, value in fields.items():
        usual = name in defaults and value == defaults[name]
        (others if usual else chosen).append([name, json.dumps(value, ensure_ascii=False)])
    versions = own.description.get("versions")
    facts = dict(versions) if isinstance(versions, dict) else {}
    facts |= {name: own.description[name] for name in ("commit", "devices") if name in own.description}
    trained = [[name, fact if isinstance(fact, str) else json.dumps(fact)] for name, fact in facts.items()]
    tables = (
        table("Fields that are not the default", chosen, texts=2),
        table("Trained with", [["of", "version"], *trained], texts=2),
        table("The other fields", others, texts=2),
    )
    return element(
        "details", element("summary", "Config and versions"), element("div", *tables, class_="beside")
    )
