//! Where a browser goes back to.

use std::{fmt, str::FromStr};

/// The longest, in bytes: the deep link of a service is in it.
const MAX: usize = 2048;

/// A path with perhaps a query, below the path where Control is mounted. It names no host, whoever reads it
/// however: behind Control's URL it stays on Control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReturnPath(String);

/// A text is no [`ReturnPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoReturnPath;

impl ReturnPath {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReturnPath {
    type Err = NoReturnPath;

    fn from_str(text: &str) -> Result<Self, NoReturnPath> {
        let allowed = |byte: u8| matches!(byte, 0x21..=0x7e) && !b"\"#<>\\^`{|}".contains(&byte);
        if text.len() > MAX || !text.starts_with('/') || text.starts_with("//") || !text.bytes().all(allowed)
        {
            return Err(NoReturnPath);
        }
        let path = text.split_once('?').map_or(text, |(path, _)| path);
        let dots = |part: &str| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        if path.split('/').any(dots) {
            return Err(NoReturnPath);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ReturnPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_elsewhere() {
        let parse = |text: &str| text.parse::<ReturnPath>();
        for good in [
            "/",
            "/a/b?c=%2F%2e%2e/..&d=https://x.example//",
            "/a//b",
            "/a.b/..c",
        ] {
            assert_eq!(parse(good).map(|path| path.to_string()).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "a",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/\t/evil.example",
            "/a b",
            "/a\r\nset-cookie: x",
            "/../x",
            "/a/%2E%2e/x",
            "/a/.",
            "/.%2e?x",
            "/a#b",
            "/ä",
            "/\"x",
        ] {
            assert_eq!(parse(bad), Err(NoReturnPath), "{bad:?}");
        }
        assert!(parse(&format!("/{}", "a".repeat(MAX))).is_err());
    }
}
