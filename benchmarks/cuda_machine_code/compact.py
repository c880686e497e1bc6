"""JSON with a line for each item of a long list."""

import json


def compact(made: dict) -> str:
    """The text, which ends with a newline."""
    parts = []
    for name, value in made.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
        else:
            text = json.dumps(value)
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
