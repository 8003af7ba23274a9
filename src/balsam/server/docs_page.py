"""The /docs page: the OpenAPI document as one plain page, without scripts or anything fetched from elsewhere."""

from collections.abc import Mapping
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;"
    "background:#fff}code{font:14px ui-monospace,monospace;overflow-wrap:anywhere}summary{cursor:pointer}"
    "details{border-top:1px solid #d0d7de;padding:.4rem 0}b{display:inline-block;min-width:4.5rem}a{color:#0550ae}"
    "table{border-collapse:collapse}td{text-align:left;vertical-align:top;padding:.1rem 1rem .1rem 0}"
)


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    info = document["info"]
    title = escape(info["title"])
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style><main>"
        f"<h1>{title} {escape(info['version'])}</h1><p>{_text(info['description'])}</p>"
        "<p>For programs: <a href='/openapi.json'>openapi.json</a></p>"
    ]
    tags: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answers = _answers(document, operation)
            tags.setdefault(operation["tags"][0], []).append(_operation(path, method, operation, answers))
    for tag, operations in tags.items():
        parts += [f"<h2>{escape(tag)}</h2>", *operations]
    parts.append("<h2>Messages</h2>")
    parts += [_message(name, schema) for name, schema in document["components"]["schemas"].items()]
    return "".join(parts) + "</main></html>"


def _answers(document: Mapping[str, Any], operation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The answers of an operation by status. Errors are said once in the document, and referred to."""
    shared = document["components"]["responses"]
    return {status: shared[status] if "$ref" in one else one for status, one in operation["responses"].items()}


def _operation(path: str, method: str, operation: Mapping[str, Any], answers: Mapping[str, Mapping[str, Any]]) -> str:
    who = ", ".join(operation["x-balsam-kinds"]) or "anybody"
    if operation["x-balsam-admin"]:
        who += " (administrator)"
    parameters = [
        (f"<code>{escape(one['name'])}</code>", escape(one["in"]), _type(one["schema"]))
        for one in operation.get("parameters", [])
    ]
    rows = [
        (escape(status), escape(answer.get("description", "")), _content(answer)) for status, answer in answers.items()
    ]
    body = f"<p>Body: {_content(operation['requestBody'])}</p>" if "requestBody" in operation else ""
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code> {escape(operation['summary'])}"
        f"</summary><p>{_text(operation.get('description', ''))} For: {escape(who)}.</p>"
        f"{_table(parameters)}{body}{_table(rows)}</details>"
    )


def _message(name: str, schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", []))
    fields = [
        (f"<code>{escape(field)}</code>", _type(what), "required" if field in required else "")
        for field, what in schema.get("properties", {}).items()
    ]
    values = ", ".join(escape(str(value)) for value in schema.get("enum", []))
    text = _text(schema.get("description", ""))
    head = f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary>"
    return f"{head}<p>{text} {values}</p>{_table(fields)}</details>"


def _table(rows: list[tuple[str, str, str]]) -> str:
    return "<table>" + "".join("<tr><td>" + "<td>".join(row) for row in rows) + "</table>" if rows else ""


def _content(holder: Mapping[str, Any]) -> str:
    for kind, content in holder.get("content", {}).items():
        return _type(content["schema"]) if kind == "application/json" else escape(kind)
    return ""


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(str(schema["$ref"]).rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"map of {_type(schema['additionalProperties'])}"
    return escape(str(schema.get("type", "any" if schema else "")))


def _text(text: str) -> str:
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))
