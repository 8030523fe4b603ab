"""``python -m vsr.config``: write docs/options.md and docs/options.schema.json."""

import json
from pathlib import Path

from vsr.config.manual import json_schema, options_page
from vsr.utils.files import atomic_write

DOCS = Path(__file__).parent.parent.parent / "docs"


def manual() -> dict[str, str]:
    """Return the content of each generated file by its name."""
    return {"options.md": options_page(), "options.schema.json": json.dumps(json_schema(), indent=1) + "\n"}


if __name__ == "__main__":
    DOCS.mkdir(exist_ok=True)
    for name, text in manual().items():
        with atomic_write(DOCS / name, "w") as file:
            file.write(text)
