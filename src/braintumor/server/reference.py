"""Write the page that describes the API, from its OpenAPI description and without anything from other sites."""

from html import escape
from typing import Any

from braintumor.classes import DISCLAIMER


def reference_page(description: dict[str, Any]) -> str:
    """Return the HTML page for an OpenAPI description."""
    operations = [
        _operation(path, method, details, description)
        for path, methods in description["paths"].items()
        for method, details in methods.items()
    ]
    title = escape(f"{description['info']['title']} {description['info']['version']}: API")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/static/reference.css"></head><body><main>'
        f"<h1>{title}</h1><p><strong>{escape(DISCLAIMER)}</strong></p>"
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. The viewer: <a href="/">/</a>.</p>'
        f"{''.join(operations)}</main></body></html>"
    )


def _operation(path: str, method: str, details: dict[str, Any], description: dict[str, Any]) -> str:
    """Return the section about one path and method."""
    parameters = [
        (f"{parameter['name']} ({parameter['in']})", _kind(parameter["schema"]), parameter.get("description", ""))
        for parameter in details.get("parameters", ())
    ]
    for media, content in details.get("requestBody", {}).get("content", {}).items():
        properties = content["schema"]["properties"]
        parameters += [(f"{name} ({media})", _kind(schema), "") for name, schema in properties.items()]
    answers = [(status, answer.get("description", ""), "") for status, answer in sorted(details["responses"].items())]
    fields = _fields_of(details["responses"]["200"], description)
    return (
        f"<section><h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(details.get('description', ''))}</p>"
        f"{_table('Parameters', parameters)}{_table('Answers', answers)}"
        f"{_table('Fields of the answer', fields)}</section>"
    )


def _fields_of(answer: dict[str, Any], description: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, kind and meaning of all fields of a JSON response, level by level."""
    reference = answer.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref")
    rows: list[tuple[str, str, str]] = []
    waiting, seen = [reference] if reference else [], set()
    while waiting:
        name = waiting.pop(0).rsplit("/", 1)[-1]
        if name in seen:
            continue
        seen.add(name)
        for field, schema in description["components"]["schemas"][name].get("properties", {}).items():
            rows.append((f"{name}.{field}", _kind(schema), schema.get("description", "")))
            inner = schema.get("items", schema).get("$ref")
            if inner:
                waiting.append(inner)
    return rows


def _kind(schema: dict[str, Any]) -> str:
    """Return a short description of the type of a value."""
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("format") or schema.get("type", "any"))


def _table(title: str, rows: list[tuple[str, str, str]]) -> str:
    """Return a table with a title; an empty text without rows."""
    if not rows:
        return ""
    lines = "".join(
        f"<tr><th><code>{escape(name)}</code></th><td>{escape(second)}</td><td>{escape(third)}</td></tr>"
        for name, second, third in rows
    )
    return f"<h3>{escape(title)}</h3><table>{lines}</table>"
