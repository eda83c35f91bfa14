//! What a node knows of the Control that it enrolled with.

use kakuremichi_core::{id::NodeId, key::IdentityKey};

use data_encoding::HEXLOWER;

const HEADER: &str = "kakuremichi enrolment 1";

/// A node's enrolment. From then on it counts, and the token no longer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Who the node is to Control.
    pub node: NodeId,
    /// Control's URL, in canonical form.
    pub url: String,
    /// Control's identity key: who the node talks to.
    pub control: IdentityKey,
    /// SHA-256 of the certificate (DER) of Control's own CA; `None` when its certificate is one that
    /// the system's roots vouch for.
    pub ca: Option<[u8; 32]>,
}

impl Enrolment {
    /// One `name value` per line, readable by people.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!(
            "{HEADER}\nnode {}\nurl {}\ncontrol {}\n",
            self.node, self.url, self.control
        );
        if let Some(ca) = &self.ca {
            text.push_str("ca ");
            text.push_str(&HEXLOWER.encode(ca));
            text.push('\n');
        }
        text
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return None;
        }
        let (mut node, mut url, mut control, mut ca) = (None, None, None, None);
        for line in lines {
            let (name, value) = line.split_once(' ')?;
            match name {
                "node" => node = Some(value.parse().ok()?),
                "url" => url = Some(value.to_owned()),
                "control" => control = Some(value.parse().ok()?),
                "ca" => ca = Some(HEXLOWER.decode(value.as_bytes()).ok()?.try_into().ok()?),
                _ => return None,
            }
        }
        Some(Self {
            node: node?,
            url: url?,
            control: control?,
            ca,
        })
    }
}
