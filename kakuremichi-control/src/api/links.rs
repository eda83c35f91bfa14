//! The links of the OpenAPI document: from the answer of what makes a thing to what can be done with that thing.

use std::collections::BTreeMap;

use axum::http::Method;
use serde_json::Value;
use utoipa::openapi::{OpenApi, RefOr, link::Link, path::Operation};

use super::{PREFIX, routes::Route};

/// What stands for the identifier in the path of a thing.
const ID: &str = "{id}";

/// Adds them, as they follow from the table of routes: what is made by a `POST` is found below the same path.
pub(super) fn add(document: &mut OpenApi, routes: &[Route]) {
    let schemas = serde_json::to_value(&document.components).unwrap_or_default();
    let schemas = &schemas["schemas"];
    for maker in routes.iter().filter(|route| route.method == Method::POST) {
        let below = format!("{}/{ID}", maker.path);
        let things = routes.iter().filter(|route| route.path.starts_with(&below));
        let things: Vec<String> = things
            .filter_map(|route| operation(document, route)?.operation_id.clone())
            .collect();
        let Some(operation) = operation(document, maker) else {
            continue;
        };
        let Some(RefOr::T(made)) = operation.responses.responses.get_mut("201") else {
            continue;
        };
        let body = made.content.get("application/json");
        let Some(pointer) = body.and_then(|body| {
            let body = serde_json::to_value(body).ok()?;
            identifier(&body["schema"], schemas)
        }) else {
            continue;
        };
        let links = things.into_iter().map(|operation_id| {
            let link = Link::builder()
                .operation_id(operation_id.clone())
                .parameter("id", format!("$response.body#{pointer}"))
                .build();
            (operation_id, RefOr::T(link))
        });
        made.links = links.collect::<BTreeMap<_, _>>();
    }
}

/// The operation of a route.
pub(super) fn operation<'a>(document: &'a mut OpenApi, route: &Route) -> Option<&'a mut Operation> {
    let item = document.paths.paths.get_mut(&format!("{PREFIX}{}", route.path))?;
    match route.method.as_str() {
        "GET" => item.get.as_mut(),
        "POST" => item.post.as_mut(),
        "PUT" => item.put.as_mut(),
        "PATCH" => item.patch.as_mut(),
        "DELETE" => item.delete.as_mut(),
        _ => None,
    }
}

/// Where in an answer the identifier of what was made is, as a JSON pointer: at its top, or in what stands there beside a
/// secret that is shown once.
fn identifier(schema: &Value, schemas: &Value) -> Option<String> {
    let properties = properties(schema, schemas);
    if properties.contains_key("id") {
        return Some("/id".to_owned());
    }
    let inside = |value: &Value| self::properties(value, schemas).contains_key("id");
    let (name, _) = properties.iter().find(|(_, value)| inside(value))?;
    Some(format!("/{name}/id"))
}

/// The properties that a schema has by itself, or by what it is made of.
fn properties<'a>(schema: &'a Value, schemas: &'a Value) -> BTreeMap<&'a str, &'a Value> {
    let named = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    let schema = named.map_or(schema, |name| &schemas[name]);
    let own = schema["properties"].as_object().into_iter().flatten();
    let mut properties: BTreeMap<&str, &Value> = own.map(|(name, value)| (name.as_str(), value)).collect();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        properties.extend(self::properties(part, schemas));
    }
    properties
}
