//! The table of permissions, for people.

use std::fmt::Write as _;

use super::{PREFIX, Requirement, openapi::document, routes};

/// Which route requires what, as a page of Markdown. It is committed beside this crate, as the OpenAPI document is.
#[must_use]
pub fn permission_table() -> String {
    let document = serde_json::to_value(document()).unwrap_or_default();
    let mut routes = routes::routes();
    routes.sort_by_key(|route| route.requirement);
    let mut page = String::from(
        "# What each route of the REST API requires\n\n\
         Made from the table of routes in `src/api/routes.rs` by \
         `KAKUREMICHI_WRITE_OPENAPI=1 cargo test -p kakuremichi-control --lib committed_one`. A role, and an API key, \
         has permissions; nobody gives a permission that they do not have. What belongs to another organization is not \
         there, whatever the permission.\n",
    );
    let mut last: Option<Requirement> = None;
    for route in &routes {
        if last != Some(route.requirement) {
            last = Some(route.requirement);
            let title = match route.requirement {
                Requirement::Permission(permission) => format!("`{permission}`"),
                other => {
                    let text = other.to_string();
                    let (first, rest) = text.split_at(1);
                    first.to_uppercase() + rest
                }
            };
            // Writing to a string does not fail.
            let _ = write!(
                page,
                "\n## {title}\n\n| Method | Path | What it does |\n|---|---|---|\n"
            );
        }
        let path = format!("{PREFIX}{}", route.path);
        let operation = &document["paths"][&path][route.method.as_str().to_lowercase()];
        // A row of a table is one line.
        let summary = operation["summary"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ");
        let _ = writeln!(page, "| {} | `{path}` | {summary} |", route.method);
    }
    page
}
