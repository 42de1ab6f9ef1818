"""One self-contained HTML page: no script, nothing asked from elsewhere, all data escaped."""

import jinja2.sandbox

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; height: auto; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.small { color: #555; font-size: 13px; }
{{ style }}
</style>
</head>
<body>
<h1>{{ title }}</h1>
{{ body | safe }}
</body>
</html>
"""

_ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(autoescape=True, undefined=jinja2.StrictUndefined)


def render(template, **values):
    """A piece of HTML from a jinja template; values are escaped.

    >>> render("<p>{{ text }}</p>", text="<script>")
    '<p>&lt;script&gt;</p>'
    """
    return _ENVIRONMENT.from_string(template).render(**values)


def page(title, body, style=""):
    """The page, one text. `title` is escaped; `body` is HTML of `render`'s making, `style` CSS of our own."""
    return render(PAGE, title=title, body=body, style=style)
