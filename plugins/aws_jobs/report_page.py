"""One HTML page that needs nothing else: text, tables and plots, the plotting library inlined.

Whatever comes from data is escaped: by Jinja's autoescape in the text, by plotly's JSON in the
plots, and by :func:`plot_text` where plotly would read tags in a label.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """A figure with the words around it.

    :param figure: a plotly figure.
    :param summary: what it shows, for those who do not see it.
    :param note: a sentence below it.
    """

    key: str
    figure: Any
    summary: str
    note: str = ""

    @property
    def spec(self) -> str:
        """The figure as JSON; plotly escapes ``<``, ``>`` and ``/``, so it ends no script."""
        return str(self.figure.to_json())

    @property
    def height(self) -> int:
        """Height in pixels, so that the page does not jump when it is drawn."""
        return int(self.figure.layout.height)


def render_page(template: str, *, plots: Sequence[Plot] = (), **values: Any) -> str:
    """Fill a template of this folder.

    :param plots: those that the template shows, for which the plotting library is inlined.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "mib": mib,
        "percent": percent,
        "usd": usd,
        "whole": whole,
        "number": number,
    }
    library = Markup(get_plotlyjs()) if plots else ""  # noqa: S704 - the library's own text
    return environment.get_template(template).render(
        plots={plot.key: plot for plot in plots}, library=library, **values
    )


def plot_text(text: str, limit: int = 200) -> str:
    """Return text for a plot's label, in which plotly finds no tags.

    >>> plot_text("<b>S1")
    '&lt;b&gt;S1'
    """
    return html.escape(text if len(text) <= limit else f"{text[: limit - 1]}…", quote=False)


def duration(seconds: float | None) -> str:
    """Return a time span for people.

    >>> duration(0.44), duration(75), duration(1234), duration(7260)
    ('0.4 s', '1 min 15 s', '21 min', '2 h 1 min')
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 600:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    if seconds < 3570:
        return f"{seconds / 60:.0f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def mib(value: float | None) -> str:
    r"""Return an amount of memory in MiB, or GiB from 10 GiB on.

    >>> mib(312), mib(500_000)
    ('312\xa0MiB', '488.3\xa0GiB')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}\u00a0MiB" if value < 10_240 else f"{value / 1024:,.1f}\u00a0GiB"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as percent."""
    return "-" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def usd(value: float | None) -> str:
    """Return dollars with the digits that tell something.

    >>> usd(12.5), usd(0.0123), usd(0)
    ('$12.50', '$0.0123', '$0')
    """
    if value is None:
        return "-"
    if value == 0:
        return "$0"
    return f"${value:,.2f}" if value >= 1 else f"${value:.4f}" if value >= 0.0001 else "< $0.0001"


def whole(value: float | None) -> str:
    """Return a number without decimals, in groups of three."""
    return "-" if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with decimals, in groups of three."""
    return "-" if value is None else f"{value:,.{digits}f}"
