"""HTML from elements. Every text that is not markup already is escaped here, and nowhere else."""

import html
from collections.abc import Iterable, Sequence
from typing import TypeAlias

# Elements that have no content and no end.
VOID = {"img", "link", "meta"}
Attribute: TypeAlias = str | float | bool | None


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Text as HTML that shows it; Markup as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(text))


def joined(parts: Iterable[str]) -> Markup:
    """Texts and markup one after the other."""
    return Markup("".join(map(escaped, parts)))


def element(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """An element of HTML or SVG.

    Args:
      name: name of the element.
      children: what is in it, text or markup.
      attributes: in their names "_" stands for "-", but for one at the end, as in `class_`. An attribute of
        None or False is left out, and one of True has no value.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    end = "" if name in VOID else f"{joined(children)}</{name}>"
    return Markup(f"<{name}{given}>{end}")


def table(caption: str, lines: Sequence[Sequence[str]], *, texts: int = 1) -> Markup:
    """A table in a box of its own that scrolls where the page is narrow.

    Args:
      caption: a sentence or title above it.
      lines: cells, text or markup; the first line is the header, the first cell of the others names the line.
      texts: number of columns, from the left, that are texts and not figures.
    """
    header, *body = lines
    classes = ["text" if i < texts else None for i in range(len(header))]
    head = element(
        "tr", *(element("th", c, scope="col", class_=k) for c, k in zip(header, classes, strict=True))
    )
    rows = [
        element(
            "tr",
            element("th", line[0], scope="row", class_=classes[0]),
            *(element("td", cell, class_=k) for cell, k in zip(line[1:], classes[1:], strict=True)),
        )
        for line in body
    ]
    own = element("table", element("caption", caption), element("thead", head), element("tbody", *rows))
    return scrolling(own, caption)


def chip(name: str, colour: str) -> Markup:
    """A name with a dot in a colour, as CSS has it."""
    return element("span", name, class_="chip", style=f"--own: {colour}")


def scrolling(content: Markup, label: str) -> Markup:
    """A box that scrolls sideways, also by the keyboard."""
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)
