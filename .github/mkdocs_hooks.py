"""recipes/KEYS.md is a page of the site, too."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

KEYS = Path(__file__).parents[1] / "recipes" / "KEYS.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, "KEYS.md", content=KEYS.read_text()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """The link that holds in the repository, as it holds in the site."""
    return markdown.replace("](../recipes/KEYS.md)", "](KEYS.md)")
