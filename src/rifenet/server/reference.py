"""`/docs`: the API's description as one plain page. FastAPI's own would load scripts and styles from another host."""

from __future__ import annotations

from html import escape
from typing import Any


def reference_page(description: dict[str, Any]) -> str:
    """HTML of an OpenAPI description; `description` is what `/openapi.json` holds."""
    info = description["info"]
    schemas = description.get("components", {}).get("schemas", {})
    routes = [
        _route(method.upper(), path, operation, schemas)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title>"
        '<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/base.css"></head>'
        f'<body><main class="reference"><h1>{escape(info["title"])} API {escape(info["version"])}</h1>'
        f"<p>{escape(info.get('summary', ''))}</p>"
        '<p>Programs read <a href="/openapi.json">/openapi.json</a>. <a href="/">The page</a></p>'
        f"{''.join(routes)}</main></body></html>\n"
    )


def _route(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    rows = [
        (parameter["name"], parameter["in"], parameter.get("required", False), parameter.get("description", ""))
        for parameter in operation.get("parameters", [])
    ]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        form = _resolved(content["schema"], schemas)
        rows += [
            (
                name,
                "form" if "form" in media else "body",
                name in form.get("required", []),
                field.get("description", ""),
            )
            for name, field in form["properties"].items()
        ]
    takes = _table(("takes", "in", "required", ""), [(n, w, "yes" if r else "no", t) for n, w, r, t in rows])
    gives = _table(
        ("status", "answer", ""),
        [
            (
                status,
                " or ".join(_kind(media, content, schemas) for media, content in answer.get("content", {}).items()),
                _text(answer),
            )
            for status, answer in operation["responses"].items()
        ],
    )
    return (
        f'<section><h2><span class="method">{method}</span> <code>{escape(path)}</code></h2>'
        f"<p>{escape(operation.get('description', ''))}</p>{takes}{gives}</section>"
    )


def _text(answer: dict[str, Any]) -> str:
    return str(answer.get("description", ""))


def _kind(media: str, content: dict[str, Any], schemas: dict[str, Any]) -> str:
    """What an answer holds, e.g. `application/json {detail}`."""
    properties = _resolved(content.get("schema", {}), schemas).get("properties", {})
    return f"{media} {{{', '.join(properties)}}}" if properties else media


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schemas[name] if name else schema
    return found


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
