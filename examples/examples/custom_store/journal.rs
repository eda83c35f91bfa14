//! The file, line by line.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use kakuremichi_control::store::{record_from_json, record_to_json};
use kakuremichi_core::{
    audit::{AuditEntry, AuditLink},
    auth::Principal,
    model::Role,
    net::{Cidr, Overlay},
    store::{
        Batch, IdempotencyKey, IdempotentRequest, Mutation, NodeUsage, Sequence, StoreRecord, UsageCounts,
        UsageEntry, UsageReport, Version,
    },
    time::Timestamp,
};
use serde_json::{Value, json};

/// A file of lines that only grows.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// A line could not be written. What is in memory is more than what is on the disk, so nothing goes on
    /// before the journal is opened anew.
    broken: bool,
}

/// A line.
#[derive(Debug)]
pub(crate) enum Line {
    /// The overlay was made.
    Overlay(Overlay),
    /// A batch was applied.
    Commit(Batch),
    /// Links were added to the chain of the audit, behind the first one.
    Seal(AuditLink, Vec<AuditLink>),
    /// An answer is kept.
    Answer(IdempotencyKey, Vec<u8>),
    /// A node reported usage.
    Usage(NodeUsage),
}

impl Journal {
    /// Opens a journal, readable by its owner only, and reads it.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<Line>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A line without its end was never answered: it is cut off.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        let lines = text[..whole].lines().map(|line| {
            let value = serde_json::from_str(line)?;
            read(&value).ok_or_else(|| io::Error::other(format!("this line is not understood: {line}")))
        });
        let lines = lines.collect::<io::Result<_>>()?;
        Ok((Self { file, broken: false }, lines))
    }

    /// Appends a line. It is on the disk when this returns; a real store would not keep the runtime waiting
    /// for that.
    pub(crate) fn write(&mut self, line: &Line) -> io::Result<()> {
        self.check()?;
        self.broken = true;
        let mut bytes = serde_json::to_vec(&write(line)?)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.broken = false;
        Ok(())
    }

    /// Whether memory and disk are the same.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier change could not be written down"));
        }
        Ok(())
    }
}

fn write(line: &Line) -> io::Result<Value> {
    Ok(match line {
        Line::Overlay(overlay) => json!({"overlay": overlay.cidr().to_string()}),
        Line::Commit(batch) => {
            let mutations = batch.mutations.iter().map(write_mutation);
            json!({"commit": {"mutations": mutations.collect::<io::Result<Vec<_>>>()?, "audit": write_audit(&batch.audit),
                              "request": batch.request.map(write_request)}})
        }
        Line::Answer(key, answer) => json!({"answer": {"key": write_key(*key), "bytes": answer}}),
        Line::Seal(head, links) => {
            let links = links.iter().map(write_link);
            json!({"seal": {"head": write_link(head), "links": links.collect::<Vec<_>>()}})
        }
        Line::Usage(usage) => {
            let entries = usage
                .entries
                .iter()
                .map(|UsageEntry { service, counts }| json!([service.to_string(), write_counts(*counts)]));
            json!({"usage": {"node": usage.node.to_string(), "organization": usage.organization.to_string(),
                             "at": usage.at.as_millis(), "epoch": usage.report.epoch,
                             "sequence": usage.report.sequence, "entries": entries.collect::<Vec<_>>(),
                             "unattributed": write_counts(usage.unattributed)}})
        }
    })
}

fn write_link(link: &AuditLink) -> Value {
    json!([link.sequence.0, link.hash])
}

fn read_link(link: &Value) -> Option<AuditLink> {
    Some(AuditLink {
        sequence: Sequence(link[0].as_u64()?),
        hash: serde_json::from_value(link[1].clone()).ok()?,
    })
}

fn read(line: &Value) -> Option<Line> {
    if let Some(seal) = line.get("seal") {
        let links = seal["links"].as_array()?.iter().map(read_link);
        return Some(Line::Seal(
            read_link(&seal["head"])?,
            links.collect::<Option<_>>()?,
        ));
    }
    if let Some(overlay) = line.get("overlay") {
        let network: Cidr = overlay.as_str()?.parse().ok()?;
        return Some(Line::Overlay(network.try_into().ok()?));
    }
    if let Some(commit) = line.get("commit") {
        return Some(Line::Commit(Batch {
            mutations: commit["mutations"]
                .as_array()?
                .iter()
                .map(read_mutation)
                .collect::<Option<_>>()?,
            audit: read_audit(&commit["audit"])?,
            request: match &commit["request"] {
                Value::Null => None,
                request => Some(read_request(request)?),
            },
        }));
    }
    if let Some(answer) = line.get("answer") {
        let bytes = serde_json::from_value(answer["bytes"].clone()).ok()?;
        return Some(Line::Answer(read_key(&answer["key"])?, bytes));
    }
    let usage = line.get("usage")?;
    let entries = usage["entries"].as_array()?.iter().map(|entry| {
        Some(UsageEntry {
            service: entry[0].as_str()?.parse().ok()?,
            counts: read_counts(&entry[1])?,
        })
    });
    Some(Line::Usage(NodeUsage {
        node: usage["node"].as_str()?.parse().ok()?,
        organization: usage["organization"].as_str()?.parse().ok()?,
        at: Timestamp::from_millis(usage["at"].as_i64()?),
        report: UsageReport {
            epoch: usage["epoch"].as_u64()?,
            sequence: usage["sequence"].as_u64()?,
        },
        entries: entries.collect::<Option<_>>()?,
        unattributed: read_counts(&usage["unattributed"])?,
    }))
}

fn write_counts(counts: UsageCounts) -> Value {
    json!([
        counts.connections,
        counts.requests,
        counts.bytes_in,
        counts.bytes_out
    ])
}

fn read_counts(value: &Value) -> Option<UsageCounts> {
    Some(UsageCounts {
        connections: value[0].as_u64()?,
        requests: value[1].as_u64()?,
        bytes_in: value[2].as_u64()?,
        bytes_out: value[3].as_u64()?,
    })
}

fn write_key(key: IdempotencyKey) -> Value {
    json!([key.caller, key.key])
}

fn read_key(key: &Value) -> Option<IdempotencyKey> {
    Some(IdempotencyKey {
        caller: serde_json::from_value(key[0].clone()).ok()?,
        key: serde_json::from_value(key[1].clone()).ok()?,
    })
}

fn write_request(request: IdempotentRequest) -> Value {
    json!({"key": write_key(request.key), "request": request.request})
}

fn read_request(request: &Value) -> Option<IdempotentRequest> {
    Some(IdempotentRequest {
        key: read_key(&request["key"])?,
        request: serde_json::from_value(request["request"].clone()).ok()?,
    })
}

fn write_mutation(mutation: &Mutation) -> io::Result<Value> {
    Ok(match mutation {
        Mutation::Create(record) => json!({"create": write_record(record)?}),
        Mutation::Update(record, version) => json!({"update": write_record(record)?, "version": version.0}),
        Mutation::Delete(id, version) => {
            json!({"delete": id.to_string(), "version": version.map(|version| version.0)})
        }
        Mutation::ConsumeToken { token, role, now } => {
            json!({"consume": token.to_string(), "role": role.as_str(), "now": now.as_millis()})
        }
    })
}

fn read_mutation(value: &Value) -> Option<Mutation> {
    let version = || value["version"].as_u64().map(Version);
    if let Some(record) = value.get("create") {
        return Some(Mutation::Create(read_record(record)?));
    }
    if let Some(record) = value.get("update") {
        return Some(Mutation::Update(read_record(record)?, version()?));
    }
    if let Some(id) = value.get("delete") {
        return Some(Mutation::Delete(id.as_str()?.parse().ok()?, version()));
    }
    let role = value["role"].as_str()?;
    Some(Mutation::ConsumeToken {
        token: value["consume"].as_str()?.parse().ok()?,
        role: [Role::Agent, Role::Gateway]
            .into_iter()
            .find(|known| known.as_str() == role)?,
        now: Timestamp::from_millis(value["now"].as_i64()?),
    })
}

/// Control's crate has a text for every record, which stays readable.
fn write_record(record: &StoreRecord) -> io::Result<Value> {
    record_to_json(record)
        .map(Value::String)
        .map_err(io::Error::other)
}

fn read_record(value: &Value) -> Option<StoreRecord> {
    record_from_json(value.as_str()?).ok()
}

fn write_audit(entry: &AuditEntry) -> Value {
    json!({
        "at": entry.at.as_millis(),
        "actor": entry.actor.as_ref().map(|actor| [actor.authority(), actor.subject()]),
        "organization": entry.organization.map(|id| id.to_string()),
        "action": entry.action,
        "subject": entry.subject.map(|id| id.to_string()),
    })
}

fn read_audit(value: &Value) -> Option<AuditEntry> {
    let id = |name: &str| value[name].as_str();
    let actor = value["actor"]
        .as_array()
        .map(|actor| Some(Principal::new(actor.first()?.as_str()?, actor.get(1)?.as_str()?)));
    Some(AuditEntry {
        at: Timestamp::from_millis(value["at"].as_i64()?),
        actor: match actor {
            Some(actor) => Some(actor?),
            None => None,
        },
        organization: match id("organization") {
            Some(id) => Some(id.parse().ok()?),
            None => None,
        },
        action: value["action"].as_str()?.to_owned(),
        subject: match id("subject") {
            Some(id) => Some(id.parse().ok()?),
            None => None,
        },
    })
}
