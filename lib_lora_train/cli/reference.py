"""Makes docs/settings.md, the page of all settings: python -m lib_lora_train.cli.reference > docs/settings.md"""

from __future__ import annotations

from lib_lora_train.cli.arguments import help_text
from lib_lora_train.config import GROUP_TITLES, settings


def settings_page() -> str:
    """The page, as Markdown."""
    lines = [
        "# Settings",
        "",
        "The tab, the command line, the API, presets and the metadata of an adapter use the same names:",
        "`learning_rate = 1e-4` in a `.toml` file is `--learning-rate 1e-4` on the command line.",
    ]
    group = None
    for field in settings():
        if field.group != group:
            group = field.group
            title = GROUP_TITLES[group]
            lines += ["", f"## {title[0].upper()}{title[1:]} `[{group}]`", "", "| setting | | |", "| --- | --- | --- |"]
        text = help_text(field).replace("%%", "%").replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{field.name}` | {field.info.label} | {text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(settings_page(), end="")
