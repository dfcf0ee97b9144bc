"""HTML and SVG as text: whatever is not markup already is escaped, so no name can break a page."""

import html
from collections.abc import Iterable

VOID = frozenset({"br", "img", "meta"})


class Markup(str):
    """Text that goes into a page as it is."""

    __slots__ = ()


def markup(value: object) -> Markup:
    """Markup as it is, the parts of a list joined, None as nothing, anything else as escaped text."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup()
    if isinstance(value, Iterable) and not isinstance(value, str):
        return Markup("".join(markup(part) for part in value))
    return Markup(html.escape(str(value)))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: of the element.
        children: markup, text, or lists of them.
        attributes: `class_` is class, `stroke_width` is stroke-width; None and False leave one out.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            words.append(key if value is True else f'{key}="{html.escape(_text(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{markup(children)}</{name}>")


def _text(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def figure(picture: Markup, caption: object, **attributes: object) -> Markup:
    """A picture with its caption."""
    return tag("figure", picture, tag("figcaption", caption), **attributes)


def table(caption: object, head: Iterable[object], rows: Iterable[Iterable[object]], **attributes) -> Markup:
    """A table in a box of its own that scrolls where it is too wide; `<td>` cells stay as they are made.

    Args:
        caption: what the table says.
        head: titles of the columns.
        rows: the first cell of each names the row.
    """

    def cell(value: object) -> Markup:
        return value if isinstance(value, Markup) and value.startswith("<td") else tag("td", value)

    lines = [[tag("th", first, scope="row"), *map(cell, rest)] for first, *rest in rows]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", tag("span", caption)),
            tag("thead", tag("tr", [tag("th", title, scope="col") for title in head])),
            tag("tbody", [tag("tr", line) for line in lines]),
            **attributes,
        ),
        # With a role and a name, for the keyboard scrolls it, too.
        class_="scroll", tabindex=0, role="group", aria_label=f"table: {caption}",
    )  # fmt: skip
