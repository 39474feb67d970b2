"""The API as a page of the documentation: ``python -m fleetest.api.reference > docs/reference/http-api.md``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from fleetest.api.application import Api
from fleetest.api.fleet import Fleet, Observer
from fleetest.api.openapi import openapi
from fleetest.api.route import Route
from fleetest.transport.identity import FixedCredentials

HEAD = """\
# HTTP API

Served on the coordinator's port; the same is at `/openapi.json` for machines and at `/api` for people. How to call
it: [use the API](../how-to/use-the-api.md).

- **Tokens**: `Authorization: Bearer TOKEN`. Roles: `admin` may do everything, `submit` submits runs and sees
  everything, `view` sees everything, `worker` may only serve as one.
- **Errors** are problems ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)): `status`, `title`, `code` (never
  changes its meaning), `detail` (says what to do).
- **Times** are UTC in RFC 3339; durations are seconds; ids are opaque text. Ids of tasks stand in paths as they are
  or percent-encoded.
- **Lists** come in pages: `items`, `next_cursor` (null: this was the last), `total` (null: nobody counted). Pages
  have at most 1,000 entries.
- **Age**: while many look at a large fleet, what is shown of it is computed once for all who ask within a moment (at
  most 10 s). An answer with the header `Age` is from so many seconds ago, and something has happened since. After a
  POST nobody is told of a time before it, and after the end of a run nobody who asks for it or for the list of runs.
- **POST** takes `Idempotency-Key`: asking again with the same key and body within a day gives the same answer and
  does nothing.
- Bodies are `Content-Type: application/json`; unknown fields and parameters are refused.
- Fields are added to answers as time goes by; what is here is never renamed. Text of tests and machines is hostile:
  show it as text.

This page is printed from the table of routes; a test fails when it is stale.
"""


def markdown(routes: Sequence[Route]) -> str:
    document = openapi(routes)
    schemas = document["components"]["schemas"]
    parts = [HEAD, "## Operations"]
    tags: dict[str, list[Route]] = {}
    for route in routes:
        tags.setdefault(route.tag, []).append(route)
    for tag, tagged in tags.items():
        parts += [f"### {tag}", "| | role | | parameters | answer |\n|---|---|---|---|---|"]
        parts[-1] += "".join("\n" + _operation(route, document) for route in tagged)
    parts.append("## Types")
    used = {route.query.__name__ for route in routes}
    for name, schema in sorted(schemas.items()):
        if name not in used:
            parts += [f"### {name}", *_type(schema)]
    return "\n\n".join(parts) + "\n"


def _operation(route: Route, document: dict[str, Any]) -> str:
    operation = document["paths"][route.path.replace("...}", "}")][route.method.lower()]
    parameters = [
        f"`{parameter['name']}`: {_kind(parameter['schema'])}"
        for parameter in operation["parameters"]
        if parameter["in"] == "query"
    ]
    if "requestBody" in operation:
        parameters.append(f"body: {_kind(operation['requestBody']['content']['application/json']['schema'])}")
    answer = operation["responses"][str(route.status)]["content"][route.media_type]["schema"]
    told = _kind(answer) if route.media_type == "application/json" else route.media_type
    cells = [
        f"`{route.method} {route.path}`",
        route.role.value,
        route.summary,
        "<br>".join(parameters),
        f"{route.status} {told}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(schema: dict[str, Any]) -> list[str]:
    about = [" ".join(schema["description"].split())] if "description" in schema else []
    if "properties" not in schema:
        return about
    rows = ["| field | type | |\n|---|---|---|"]
    for name, kind in schema["properties"].items():
        rows[0] += f"\n| `{name}` | {_kind(kind)} | {kind.get('description', '')} |"
    return [*about, *rows]


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    told = {"date-time": "time"}.get(schema.get("format", "")) or str(kind or "anything")
    bounds = [
        f"{sign} {schema[name]:g}"
        for name, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("maximum", "≤"))
        if name in schema
    ]
    return f"{told} {', '.join(bounds)}" if bounds else told


class _Nowhere:
    """A fleet that is only asked for its routes."""

    def observe(self, observer: Observer) -> None:
        pass


def api_routes() -> Sequence[Route]:
    """The table without a fleet behind it."""
    return Api(cast(Fleet, _Nowhere()), history=None, credentials=FixedCredentials({})).routes()


if __name__ == "__main__":
    print(markdown(api_routes()), end="")
