"""/openapi.json with problem details as they are sent, and /docs made from it: one page without foreign scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from serving.problems import MEDIA_TYPE, Problem

TEMPLATE = Path(__file__).with_name("documentation.html")
_REFERENCE = {"$ref": "#/components/schemas/Problem"}
_FRAMEWORK = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Adds /docs and replaces the app's openapi()."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = described(app)
        return app.openapi_schema

    async def docs() -> HTMLResponse:
        return HTMLResponse(page(openapi()))

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_api_route("/docs", docs, include_in_schema=False)


def described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: every error is a Problem."""
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, servers=[{"url": "/"}]
    )
    schemas = schema["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for name in _FRAMEWORK:
        schemas.pop(name, None)
    for operations in schema["paths"].values():
        for operation in operations.values():
            _as_problems(operation["responses"])
    return schema


def _as_problems(responses: dict[str, Any]) -> None:
    responses["500"] = {"description": "Internal error"}
    for status, response in responses.items():
        if status >= "400":
            response["content"] = {MEDIA_TYPE: {"schema": _REFERENCE}}


def page(schema: dict[str, Any]) -> str:
    """The document as HTML for people."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    environment.filters["words"] = _words
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(api=schema, operations=list(_operations(schema)), example_of=_example_of(schema))


def _operations(schema: dict[str, Any]) -> Any:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield {"path": path, "method": method.upper(), "try": _tried(path, operation), **operation}


def _tried(path: str, operation: dict[str, Any]) -> str:
    """The path with the examples of its parameters."""
    for parameter in operation.get("parameters", []):
        examples = parameter["schema"].get("examples") or parameter.get("examples") or [parameter["name"]]
        path = path.replace(f"{{{parameter['name']}}}", str(examples[0]))
    return path


def _example_of(schema: dict[str, Any]) -> Any:
    def example(media: dict[str, Any]) -> Any:
        name = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
        found = schema["components"]["schemas"].get(name, {})
        if found.get("examples"):
            return found["examples"][0]
        examples = {k: v["examples"][0] for k, v in found.get("properties", {}).items() if v.get("examples")}
        return examples or {k: v["default"] for k, v in found.get("properties", {}).items() if "default" in v}

    return example


def _words(schema: dict[str, Any]) -> str:
    """A property's type in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_words(s) for s in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_words(schema['items'])}"
    return str(schema.get("type") or schema.get("const") or "any")
