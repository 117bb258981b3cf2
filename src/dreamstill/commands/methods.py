"""``dreamstill methods``: list the methods and controls."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from dreamstill import methods


def list_methods(as_json: bool) -> list[dict[str, Any]]:
    """Carry out :func:`dreamstill.api.methods`."""
    found = []
    for name, package in sorted(methods.names().items(), key=lambda item: (item[1].endswith("controls"), item[0])):
        cls = methods.get(name)
        found.append(
            {
                "name": name,
                "kind": "control" if package.endswith("controls") else "method",
                "paper": cls.paper,
                "needs": sorted(cls.needs),
                "outside": list(cls.outside),
                "tasks": sorted(cls.tasks),
                "settings": {f.name: f.default for f in fields(cls)},
            }
        )
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        table = Table("method", "paper", "tasks", "needs of the teacher", "outside information")
        for row in found:
            outside = ", ".join(row["outside"]) or "none"
            table.add_row(row["name"], row["paper"], ", ".join(row["tasks"]), ", ".join(row["needs"]), outside)
        Console().print(table)
    return found
