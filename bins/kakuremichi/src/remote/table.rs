//! Lists, as people read them.

use clap::ValueEnum;
use kakuremichi_api::{
    Access, Api, ApiError, ApiKey, Group, Node, NodeRole, Organization, Resource, Service, ServiceToken,
    SharedPolicy, Site, Token,
};

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Services,
    Policies,
    Nodes,
    Sites,
    Tokens,
    ServiceTokens,
    ApiKeys,
    Groups,
    Organizations,
}

impl Kind {
    /// Where they are, below `/api/v1/`.
    pub(super) const fn collection(self) -> &'static str {
        match self {
            Self::Services => Service::COLLECTION,
            Self::Policies => SharedPolicy::COLLECTION,
            Self::Nodes => Node::COLLECTION,
            Self::Sites => Site::COLLECTION,
            Self::Tokens => Token::COLLECTION,
            Self::ServiceTokens => ServiceToken::COLLECTION,
            Self::ApiKeys => ApiKey::COLLECTION,
            Self::Groups => Group::COLLECTION,
            Self::Organizations => Organization::COLLECTION,
        }
    }

    /// At most `limit` items, one in a line.
    pub(super) async fn table(
        self,
        api: &Api,
        filters: &[(&str, &str)],
        limit: usize,
    ) -> Result<String, ApiError> {
        match self {
            Self::Services => rows::<Service>(api, filters, limit).await,
            Self::Policies => rows::<SharedPolicy>(api, filters, limit).await,
            Self::Nodes => rows::<Node>(api, filters, limit).await,
            Self::Sites => rows::<Site>(api, filters, limit).await,
            Self::Tokens => rows::<Token>(api, filters, limit).await,
            Self::ServiceTokens => rows::<ServiceToken>(api, filters, limit).await,
            Self::ApiKeys => rows::<ApiKey>(api, filters, limit).await,
            Self::Groups => rows::<Group>(api, filters, limit).await,
            Self::Organizations => rows::<Organization>(api, filters, limit).await,
        }
    }
}

/// What a line has.
trait Row: Resource {
    const HEAD: &'static [&'static str];

    fn cells(&self) -> Vec<String>;
}

async fn rows<T: Row>(api: &Api, filters: &[(&str, &str)], limit: usize) -> Result<String, ApiError> {
    let items = api.list_all::<T>(filters, limit).await?;
    let head = T::HEAD.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(items.iter().map(Row::cells))
        .collect();
    Ok(aligned(&rows))
}

/// Columns as wide as what is widest in them.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| {
        rows.iter()
            .filter_map(|row| row.get(at))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<_> = (0..columns).map(|at| width(at).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn moment(at: Option<time::OffsetDateTime>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

impl Row for Service {
    const HEAD: &'static [&'static str] = &["ID", "NAME", "KIND", "URLS"];

    fn cells(&self) -> Vec<String> {
        let kind = match (&self.http, &self.tcp) {
            (Some(_), _) => "http",
            (None, Some(_)) => "tcp",
            (None, None) => "udp",
        };
        vec![
            self.id.to_string(),
            self.name.clone(),
            kind.to_owned(),
            self.urls.join(" "),
        ]
    }
}

impl Row for SharedPolicy {
    const HEAD: &'static [&'static str] = &["ID", "NAME", "RULES", "ACCESS"];

    fn cells(&self) -> Vec<String> {
        let rules: Vec<_> = self.rules.iter().map(|rule| rule.name.as_str()).collect();
        let access = match &self.access {
            None => "-",
            Some(Access::Deny) => "deny",
            Some(Access::Public) => "public",
            Some(Access::AnyOf(_)) => "any of",
            Some(Access::AllOf(_)) => "all of",
            Some(_) => "?",
        };
        vec![
            self.id.to_string(),
            self.name.clone(),
            rules.join(" "),
            access.to_owned(),
        ]
    }
}

impl Row for Node {
    const HEAD: &'static [&'static str] = &["ID", "NAME", "ROLE", "STATE", "ADDRESS"];

    fn cells(&self) -> Vec<String> {
        let role = match self.role {
            NodeRole::Agent => "agent",
            NodeRole::Gateway => "gateway",
        };
        let state = match (self.revoked_at, self.connected) {
            (Some(_), _) => "revoked",
            (None, true) => "connected",
            (None, false) => "away",
        };
        vec![
            self.id.to_string(),
            self.name.clone(),
            role.to_owned(),
            state.to_owned(),
            self.address.to_string(),
        ]
    }
}

impl Row for Site {
    const HEAD: &'static [&'static str] = &["ID", "NAME", "ADDRESS", "NETWORKS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.name.clone(),
            self.address.to_string(),
            self.networks.join(" "),
        ]
    }
}

impl Row for Token {
    const HEAD: &'static [&'static str] = &["ID", "NAME", "USES", "EXPIRES", "REVOKED"];

    fn cells(&self) -> Vec<String> {
        let uses = self
            .uses_left
            .map_or_else(|| "any".to_owned(), |uses| uses.to_string());
        vec![
            self.id.to_string(),
            self.name.clone(),
            uses,
            moment(self.expires_at),
            moment(self.revoked_at),
        ]
    }
}

impl Row for ServiceToken {
    const HEAD: &'static [&'static str] = &["ID", "NAME", "EXPIRES"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.to_string(), self.name.clone(), moment(self.expires_at)]
    }
}

impl Row for ApiKey {
    const HEAD: &'static [&'static str] = &["ID", "NAME", "EXPIRES", "PERMISSIONS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.name.clone(),
            moment(self.expires_at),
            self.permissions.join(" "),
        ]
    }
}

impl Row for Group {
    const HEAD: &'static [&'static str] = &["ID", "NAME"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.to_string(), self.name.clone()]
    }
}

impl Row for Organization {
    const HEAD: &'static [&'static str] = &["ID", "NAME"];

    fn cells(&self) -> Vec<String> {
        vec![self.id.to_string(), self.name.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let rows = [row(&["ID", "NAME"]), row(&["svc_a", "é"]), row(&["b", ""])];
        assert_eq!(aligned(&rows), "ID     NAME\nsvc_a  é\nb\n");
    }
}
