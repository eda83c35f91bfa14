//! Names as people type them.

use std::fmt;

use kakuremichi_core::{
    name::{HostPattern, Hostname, Label, NameError},
    net::{Endpoint, NetError},
};

/// Reads a host name. A Unicode name becomes its A-labels (RFC 5891, by the rules of UTS 46), so that
/// everything behind this point compares bytes.
///
/// # Errors
/// When it is no host name.
pub fn parse_host(text: &str) -> Result<Hostname, NameError> {
    to_ascii(text)?.parse()
}

/// Reads a host name or a wildcard; see [`parse_host`].
///
/// # Errors
/// When it is neither.
pub fn parse_host_pattern(text: &str) -> Result<HostPattern, NameError> {
    match text.strip_prefix("*.") {
        Some(base) => format!("*.{}", to_ascii(base)?).parse(),
        None if text.contains('*') => Err(NameError::Wildcard),
        None => to_ascii(text)?.parse(),
    }
}

/// Reads `host:port`; the host may be a Unicode name.
///
/// # Errors
/// When it is none.
pub fn parse_endpoint(text: &str) -> Result<Endpoint, NetError> {
    if text.is_ascii() {
        return text.parse();
    }
    let (host, port) = text.rsplit_once(':').ok_or(NetError::Port)?;
    format!("{}:{port}", to_ascii(host)?).parse()
}

fn to_ascii(text: &str) -> Result<String, NameError> {
    if text.is_ascii() {
        return Ok(text.to_owned());
    }
    let unfit = |text: &str| {
        text.chars()
            .find(|c| !c.is_ascii())
            .map_or(NameError::Empty, NameError::Character)
    };
    idna::domain_to_ascii(text).map_err(|_| unfit(text))
}

/// Makes a name for a node that wants to be called `wish`. `attempt` counts how often the name before was
/// taken.
pub(super) fn node_name(wish: &Label, attempt: usize) -> Result<Label, NameError> {
    /// Leaves room for a number in the 63 characters of a label.
    const LONGEST: usize = 56;
    match attempt {
        0 => Ok(wish.clone()),
        _ => {
            let text = wish.as_str();
            let short = &text[..text.len().min(LONGEST)];
            format!("{}-{}", short.trim_end_matches('-'), attempt + 1).parse()
        }
    }
}

/// Marks a place in a request, for error messages.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) kind: &'a str,
    pub(super) route: Option<usize>,
    pub(super) target: usize,
    pub(super) field: &'a str,
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.route {
            Some(route) => write!(f, "{}.routes[{route}].", self.kind)?,
            None => write!(f, "{}.", self.kind)?,
        }
        write!(f, "targets[{}].{}", self.target, self.field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unicode_hosts_become_a_labels() {
        assert_eq!(
            parse_host("Bücher.example").unwrap().as_str(),
            "xn--bcher-kva.example"
        );
        let wildcard = parse_host_pattern("*.隠れ道.example").unwrap().to_string();
        assert!(
            wildcard.starts_with("*.xn--") && wildcard.ends_with(".example"),
            "{wildcard}"
        );
        assert_eq!(
            parse_endpoint("bücher.example:80").unwrap().to_string(),
            "xn--bcher-kva.example:80"
        );
        assert_eq!(parse_endpoint("[::1]:80").unwrap().to_string(), "[::1]:80");
        assert!(
            parse_host("a b").is_err() && parse_host_pattern("a.*.b").is_err() && parse_host("").is_err()
        );
    }

    #[test]
    fn a_node_whose_name_is_taken_gets_a_number() {
        let name = |wish: &str, attempt| node_name(&wish.parse().unwrap(), attempt).unwrap().to_string();
        assert_eq!(name("web", 0), "web");
        assert_eq!(name("web", 1), "web-2");
        assert!(name(&"x".repeat(63), 99).len() <= 63);
    }
}
