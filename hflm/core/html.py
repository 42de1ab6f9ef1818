"""Self-contained HTML pages: no script, no request to another server, all data escaped."""

from typing import Any

import jinja2
import jinja2.sandbox

# Templates are files beside the module that renders them, named from the package's root: "core/page.html".
_ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    loader=jinja2.PackageLoader("hflm", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)


def render_html(template: str, **values: Any) -> str:
    """The HTML of a template file; `values` are escaped, except markupsafe.Markup.

    `template` is named from hflm's root; a whole page extends "core/page.html", whose blocks are `style` and `body`
    and whose variable is `title`.
    """
    return _ENVIRONMENT.get_template(template).render(**values)
