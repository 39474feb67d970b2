"""OpenAPI 3.1 from the route table, and a page that shows it without a script."""

from __future__ import annotations

import ast
import html
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fleetest import __version__
from fleetest.api import answers, frames, suites
from fleetest.api.http import IDEMPOTENCY_KEY, KEY_CHARS_MAX
from fleetest.api.route import Public, Route
from fleetest.transport.problems import PROBLEM_TYPE, ProblemBody

_MODULES = (answers, suites, frames)
_ALWAYS = (400, 403)
_WITH_ROLE = (401, 429)
_WITH_BODY = (408, 413, 415)
_SAYS = {
    400: "The request is malformed.",
    401: "A token is needed, or this one is not known.",
    403: "Not with this token, from this origin, or under this name.",
    404: "There is no such thing.",
    408: "The body came too slowly.",
    409: "Not in its present state.",
    413: "The body is too large.",
    415: "The body must be JSON.",
    426: "A WebSocket is spoken here.",
    422: "The body is understood and cannot be meant.",
    429: "Too many; see Retry-After.",
    503: "Not at the moment.",
}


def openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """The document."""
    kinds: list[Any] = [ProblemBody]
    for route in routes:
        kinds += [route.query, *([route.answer] if route.answer is not None else [])]
        kinds += [route.body] if route.body is not None else []
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    by_kind = dict(zip(map(_key, kinds), schemas, strict=True))
    texts = _field_texts()
    for name, component in components.items():
        for field, kind in component.get("properties", {}).items():
            text = next((texts[key] for key in _owners(name, field) if key in texts), None)
            if text is not None and "description" not in kind:
                kind["description"] = text
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, by_kind, components)
        paths.setdefault(route.path.replace("...}", "}"), {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fleetest",
            "version": __version__,
            "description": "The coordinator's API. Times are UTC, ids are opaque, every error is a problem (RFC 9457).",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "fleetest"},
            },
        },
    }


def _owners(name: str, field: str) -> Iterator[tuple[str, str]]:
    """Where a field's text may stand: in its own type, or in the one that this extends."""
    own = name.partition("_")[0] if name.startswith("Page_") else name
    found: type | None = next((getattr(module, own) for module in _MODULES if hasattr(module, own)), None)
    for kind in found.__mro__ if found is not None else ():
        yield kind.__name__, field


def _field_texts() -> dict[tuple[str, str], str]:
    """What stands under the fields of our types, by type and field; nothing else in Python keeps it."""
    texts: dict[tuple[str, str], str] = {}
    for module in _MODULES:
        for node in ast.parse(inspect.getsource(module)).body:
            if not isinstance(node, ast.ClassDef):
                continue
            for field, below in zip(node.body, node.body[1:], strict=False):
                if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                    continue
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    texts[node.name, field.target.id] = " ".join(str(below.value.value).split())
    return texts


def _operation(route: Route, by_kind: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    is_public = route.role is Public.PUBLIC
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag or "other"],
        "security": [] if is_public else [{"token": []}, {"session": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in route.path_names
        ],
        "x-role": route.role.value,
    }
    query = components[by_kind[_key(route.query)]["$ref"].rsplit("/", 1)[1]]
    operation["parameters"] += [_query_parameter(name, schema, query) for name, schema in query["properties"].items()]
    if route.is_repeatable:
        operation["parameters"].append(
            {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "required": False,
                "description": "Asking again with the same key and body gives the same answer and does nothing.",
                "schema": {"type": "string", "minLength": 1, "maxLength": KEY_CHARS_MAX, "pattern": "^[!-~]+$"},
            }
        )
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.is_body_optional,
            "content": {"application/json": {"schema": by_kind[_key(route.body)]}},
        }
    operation["responses"] = _responses(route, by_kind, is_public)
    return operation


def _query_parameter(name: str, schema: dict[str, Any], query: dict[str, Any]) -> dict[str, Any]:
    told = {"name": name, "in": "query", "required": name in query.get("required", ()), "schema": schema}
    if "description" in schema:
        told["description"] = schema["description"]
    return told


def _responses(route: Route, by_kind: dict[Any, Any], is_public: bool) -> dict[str, Any]:
    schema = by_kind[_key(route.answer)] if route.answer is not None else {"type": "string"}
    responses: dict[str, Any] = {
        str(route.status): {"description": "Done.", "content": {route.media_type: {"schema": schema}}}
    }
    statuses = {*_ALWAYS, *(() if is_public else _WITH_ROLE), *route.problems}
    if route.method != "GET":
        statuses |= set(_WITH_BODY)
    problem = {PROBLEM_TYPE: {"schema": by_kind[_key(ProblemBody)]}}
    for status in sorted(statuses):
        content = problem
        if status == 503 and route.path == "/readyz":
            content = {route.media_type: {"schema": schema}}
        responses[str(status)] = {"description": _SAYS[status], "content": content}
    return responses


def _key(kind: Any) -> str:
    return repr(kind)


def reference_page(document: dict[str, Any]) -> str:
    """The document as HTML."""
    parts = [
        "<!doctype html><html lang=en data-theme=light><head><meta charset=utf-8><title>Fleetest API</title>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        '<link rel=stylesheet href="/static/css/app.css"></head><body><main><h1>Fleetest API</h1>',
        f"<p>{html.escape(document['info']['description'])}",
        ' The same for machines: <a href="/openapi.json">openapi.json</a>.</p>',
    ]
    by_tag: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append((path, method.upper(), operation))
    for tag, operations in by_tag.items():
        parts.append(f"<h2>{html.escape(tag)}</h2>")
        parts += [_operation_html(*each) for each in operations]
    parts.append("<h2>Types</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(_schema_html(name, schema))
    parts.append("</main></body></html>")
    return "".join(parts)


def _operation_html(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = [
        _row(
            parameter["name"], f"{parameter['in']}, {_type_html(parameter['schema'])}", parameter.get("description", "")
        )
        for parameter in operation["parameters"]
    ]
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        rows.append(_row("body", _type_html(schema), "" if operation["requestBody"]["required"] else "optional"))
    for status, response in operation["responses"].items():
        content: dict[str, Any] = next(iter(response["content"].values()), {})
        rows.append(_row(status, _type_html(content.get("schema", {})), response["description"]))
    return (
        f'<section id="{html.escape(operation["operationId"])}"><h3><code>{method} {html.escape(path)}</code></h3>'
        f"<p>{html.escape(operation['summary'])} Role: {html.escape(operation['x-role'])}.</p>"
        f"<table><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _schema_html(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        _row(field, _type_html(kind), "" if field in required else "optional")
        for field, kind in schema.get("properties", {}).items()
    ]
    return (
        f'<section id="{html.escape(name)}"><h3>{html.escape(name)}</h3>'
        f"<p>{html.escape(schema.get('description', ''))}</p><table><tbody>{''.join(rows)}</tbody></table></section>"
    )


def _row(name: str, kind_html: str, about: str) -> str:
    return (
        f"<tr><th scope=row><code>{html.escape(name)}</code></th><td>{kind_html}</td><td>{html.escape(about)}</td></tr>"
    )


def _type_html(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rsplit("/", 1)[1])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type_html(part) for part in schema["anyOf"])
    if "enum" in schema:
        return html.escape(", ".join(map(str, schema["enum"])))
    if schema.get("type") == "array":
        return f"list of {_type_html(schema.get('items', {}))}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type_html(schema['additionalProperties'])}"
    return html.escape(str(schema.get("format") or schema.get("type") or "anything"))
