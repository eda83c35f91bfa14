//! The page that describes the REST API, made from its OpenAPI document when Control starts.

use askama::Template;
use serde_json::{Map, Value};

use crate::api::{PERMISSION_EXTENSION, document};

/// Where the document keeps schemas.
const SCHEMAS: &str = "#/components/schemas/";

/// The page.
pub(super) fn page() -> String {
    let document = serde_json::to_value(document()).unwrap_or_default();
    // The template is checked when this is built, and writing to a string does not fail.
    Reference::of(&document).render().unwrap_or_default()
}

#[derive(Template)]
#[template(path = "reference.html")]
struct Reference {
    title: String,
    version: String,
    description: Vec<Piece>,
    groups: Vec<Group>,
    schemas: Vec<Schema>,
}

struct Group {
    name: String,
    operations: Vec<Operation>,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    text: Vec<Piece>,
    permission: String,
    parameters: Vec<Field>,
    body: Option<Kind>,
    responses: Vec<Answer>,
}

struct Answer {
    status: String,
    text: Vec<Piece>,
    kind: Option<Kind>,
}

struct Schema {
    name: String,
    text: Vec<Piece>,
    kind: Option<Kind>,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    place: String,
    kind: Kind,
    required: bool,
    text: Vec<Piece>,
    example: Option<String>,
}

/// What a value is: words around the name of a schema.
#[derive(Default)]
struct Kind {
    before: String,
    schema: Option<String>,
    after: String,
}

/// A part of a text; what stands between backticks in it is code.
struct Piece {
    code: bool,
    text: String,
}

impl Reference {
    fn of(document: &Value) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (path, item) in object(&document["paths"]) {
            for (method, operation) in object(item) {
                let name = text(&operation["tags"][0]);
                let made = Operation::of(method, path, operation);
                match groups.iter_mut().find(|group| group.name == name) {
                    Some(group) => group.operations.push(made),
                    None => groups.push(Group {
                        name,
                        operations: vec![made],
                    }),
                }
            }
        }
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        let schemas = object(&document["components"]["schemas"]);
        Self {
            title: text(&document["info"]["title"]),
            version: text(&document["info"]["version"]),
            description: pieces(&document["info"]["description"]),
            groups,
            schemas: schemas.map(|(name, schema)| Schema::of(name, schema)).collect(),
        }
    }
}

impl Operation {
    fn of(method: &str, path: &str, operation: &Value) -> Self {
        let long = &operation["description"];
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let responses = object(&operation["responses"]);
        Self {
            id: text(&operation["operationId"]),
            method: method.to_uppercase(),
            path: path.to_owned(),
            text: pieces(if long.is_null() {
                &operation["summary"]
            } else {
                long
            }),
            permission: text(&operation[PERMISSION_EXTENSION]),
            parameters: parameters
                .map(|parameter| Field {
                    name: text(&parameter["name"]),
                    place: text(&parameter["in"]),
                    kind: Kind::of(&parameter["schema"]),
                    required: parameter["required"] == true,
                    text: pieces(&parameter["description"]),
                    example: example(&parameter["schema"]),
                })
                .collect(),
            body: content(&operation["requestBody"]),
            responses: responses
                .map(|(status, response)| Answer {
                    status: status.clone(),
                    text: pieces(&response["description"]),
                    kind: content(response),
                })
                .collect(),
        }
    }
}

impl Schema {
    fn of(name: &str, schema: &Value) -> Self {
        let mut fields = Vec::new();
        // What is flattened into it stands beside what it has itself.
        for part in std::iter::once(schema).chain(schema["allOf"].as_array().into_iter().flatten()) {
            let required: Vec<_> = part["required"]
                .as_array()
                .into_iter()
                .flatten()
                .map(text)
                .collect();
            fields.extend(object(&part["properties"]).map(|(name, property)| Field {
                name: name.clone(),
                place: String::new(),
                kind: Kind::of(property),
                required: required.contains(name),
                text: pieces(&property["description"]),
                example: example(property),
            }));
        }
        let plain = schema["properties"].is_null();
        Self {
            name: name.to_owned(),
            text: pieces(&schema["description"]),
            kind: plain.then(|| Kind::of(schema)),
            fields,
        }
    }
}

impl Kind {
    fn of(schema: &Value) -> Self {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.strip_prefix(SCHEMAS).unwrap_or(name);
            return Self {
                schema: Some(name.to_owned()),
                ..Self::default()
            };
        }
        if let Some(values) = schema["enum"].as_array() {
            let values: Vec<_> = values.iter().map(ToString::to_string).collect();
            return Self::word(&format!("one of {}", values.join(", ")));
        }
        for (field, word) in [("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")] {
            let Some(parts) = schema[field].as_array() else {
                continue;
            };
            let mut parts: Vec<_> = parts.iter().map(Self::of).collect();
            if parts.len() == 1 {
                return parts.remove(0);
            }
            // One of them, with or without `null`, keeps its link.
            let named = parts.iter().position(|part| part.schema.is_some());
            let link = named.filter(|_| parts.iter().filter(|part| part.schema.is_some()).count() == 1);
            if let Some(at) = link {
                let link = parts.remove(at);
                let rest: Vec<_> = parts.iter().map(Self::plain).collect();
                return Self {
                    after: format!("{}{word}{}", link.after, rest.join(word)),
                    ..link
                };
            }
            let all: Vec<_> = parts.iter().map(Self::plain).collect();
            return Self::word(&all.join(word));
        }
        let types = match &schema["type"] {
            Value::String(one) => one.clone(),
            Value::Array(several) => several.iter().map(text).collect::<Vec<_>>().join(" or "),
            _ => "anything".to_owned(),
        };
        if types.contains("array") {
            let items = Self::of(&schema["items"]);
            return Self {
                before: format!("list of {}", items.before),
                ..items
            };
        }
        let entries = &schema["additionalProperties"];
        if entries.is_object() {
            let entries = Self::of(entries);
            return Self {
                before: format!("map of names to {}", entries.before),
                ..entries
            };
        }
        match schema["format"].as_str() {
            Some(format) => Self::word(&format!("{types} ({format})")),
            None => Self::word(&types),
        }
    }

    fn word(text: &str) -> Self {
        Self {
            before: text.to_owned(),
            ..Self::default()
        }
    }

    fn plain(&self) -> String {
        let name = self.schema.as_deref().unwrap_or_default();
        format!("{}{name}{}", self.before, self.after)
    }
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn example(schema: &Value) -> Option<String> {
    match &schema["example"] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn content(holder: &Value) -> Option<Kind> {
    let (_, content) = object(&holder["content"]).next()?;
    Some(Kind::of(&content["schema"]))
}

fn pieces(value: &Value) -> Vec<Piece> {
    let parts = value.as_str().unwrap_or_default().split('`').enumerate();
    parts
        .map(|(at, text)| Piece {
            code: at % 2 == 1,
            text: text.to_owned(),
        })
        .filter(|piece| !piece.text.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_each_operation_and_each_link_leads_somewhere() {
        let (page, document) = (page(), serde_json::to_value(document()).unwrap());
        for (_, item) in object(&document["paths"]) {
            for (_, operation) in object(item) {
                let anchor = format!("id=\"{}\"", operation["operationId"].as_str().unwrap());
                assert_eq!(page.matches(&anchor).count(), 1, "{anchor}");
                let permission = operation[PERMISSION_EXTENSION].as_str().unwrap();
                assert!(page.contains(permission), "{permission}");
            }
        }
        for link in page.split("href=\"#").skip(1) {
            let name = link.split('"').next().unwrap();
            assert_eq!(page.matches(&format!("id=\"{name}\"")).count(), 1, "{name}");
        }
        assert!(
            !page.contains("<script") && !page.contains("style="),
            "the policy allows neither"
        );
    }

    #[test]
    fn what_stands_in_the_document_is_text() {
        let document = serde_json::json!({
            "info": {"title": "<b>", "version": "1", "description": "a `<i>` b"},
            "paths": {"/x": {"get": {"operationId": "x", "tags": ["t\"><img>"], "summary": "<u>"}}},
        });
        let page = Reference::of(&document).render().unwrap();
        for bad in ["<b>", "<i>", "<u>", "<img>"] {
            assert!(!page.contains(bad), "{bad}");
        }
        assert!(page.contains("<code>&#60;i&#62;</code>"), "{page}");
    }

    #[test]
    fn a_kind_is_said_in_words_around_its_link() {
        let kind = |schema: Value| Kind::of(&schema).plain();
        let named = serde_json::json!({"$ref": "#/components/schemas/Node"});
        assert_eq!(kind(named.clone()), "Node");
        assert_eq!(
            kind(serde_json::json!({"type": "array", "items": named})),
            "list of Node"
        );
        let perhaps = serde_json::json!({"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Node"}]});
        assert_eq!(kind(perhaps), "Node or null");
        let time = serde_json::json!({"type": ["string", "null"], "format": "date-time"});
        assert_eq!(kind(time), "string or null (date-time)");
    }
}
