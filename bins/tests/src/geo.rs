//! Databases in MaxMind's format (MaxMind DB file format specification 2.0), with whatever a test wants in them.

use std::net::IpAddr;

use serde_json::{Value, json};

/// What a database of countries has of a network.
#[must_use]
pub fn country(code: &str) -> Value {
    json!({ "country": { "iso_code": code } })
}

/// What a database of autonomous systems has of a network.
#[must_use]
pub fn asn(number: u32) -> Value {
    json!({ "autonomous_system_number": number })
}

/// A database of this type in which these networks (`ADDRESS/LENGTH`) have this data. Of two the more special one
/// comes later.
///
/// # Panics
///
/// A network is none.
#[must_use]
pub fn database(kind: &str, networks: &[(&str, Value)]) -> Vec<u8> {
    let mut tree = vec![[Record::Nothing; 2]];
    let mut data = Vec::new();
    for (network, value) in networks {
        let (address, length) = network.split_once('/').unwrap();
        let length: usize = length.parse().unwrap();
        let (bits, length) = match address.parse().unwrap() {
            // An IPv4 address is in the IPv6 tree as `::a.b.c.d`.
            IpAddr::V4(address) => (u128::from(u32::from(address)), 96 + length),
            IpAddr::V6(address) => (u128::from(address), length),
        };
        insert(&mut tree, bits, length, data.len());
        write(value, &mut data);
    }
    let count = u32::try_from(tree.len()).unwrap();
    let mut file = Vec::new();
    for record in tree.iter().flatten() {
        let number = match *record {
            Record::Nothing => count,
            Record::Node(node) => u32::try_from(node).unwrap(),
            Record::Data(offset) => count + 16 + u32::try_from(offset).unwrap(),
        };
        file.extend(number.to_be_bytes());
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    write_map_head(9, &mut file);
    for (key, kind, number) in [
        ("binary_format_major_version", Unsigned::Short, 2),
        ("binary_format_minor_version", Unsigned::Short, 0),
        ("build_epoch", Unsigned::Long, 1_700_000_000),
        ("ip_version", Unsigned::Short, 6),
        ("node_count", Unsigned::Usual, count),
        ("record_size", Unsigned::Short, 32),
    ] {
        write_text(key, &mut file);
        write_number(kind, number, &mut file);
    }
    write_text("database_type", &mut file);
    write_text(kind, &mut file);
    write_text("description", &mut file);
    write_map_head(1, &mut file);
    write_text("en", &mut file);
    write_text("What a test wants", &mut file);
    write_text("languages", &mut file);
    // An empty array, which is one of the extended types.
    file.extend([0, 4]);
    file
}

#[derive(Clone, Copy)]
enum Record {
    Nothing,
    Node(usize),
    Data(usize),
}

#[derive(Clone, Copy)]
enum Unsigned {
    Short,
    Usual,
    Long,
}

fn insert(tree: &mut Vec<[Record; 2]>, bits: u128, length: usize, offset: usize) {
    let mut node = 0;
    for depth in 0..length {
        let side = usize::from(bits >> (127 - depth) & 1 == 1);
        if depth + 1 == length {
            tree[node][side] = Record::Data(offset);
            return;
        }
        node = match tree[node][side] {
            Record::Node(next) => next,
            // What the wider network has is what both halves of it have.
            other => {
                tree.push([other; 2]);
                let next = tree.len() - 1;
                tree[node][side] = Record::Node(next);
                next
            }
        };
    }
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            write_map_head(u8::try_from(fields.len()).unwrap(), out);
            for (key, value) in fields {
                write_text(key, out);
                write(value, out);
            }
        }
        Value::String(text) => write_text(text, out),
        Value::Number(number) => {
            let number = u32::try_from(number.as_u64().unwrap()).unwrap();
            write_number(Unsigned::Usual, number, out);
        }
        other => panic!("{other} cannot be written"),
    }
}

fn write_map_head(fields: u8, out: &mut Vec<u8>) {
    out.push(7 << 5 | fields);
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    match u8::try_from(text.len()).unwrap() {
        short @ ..29 => out.push(2 << 5 | short),
        long => out.extend([2 << 5 | 29, long - 29]),
    }
    out.extend(text.as_bytes());
}

fn write_number(kind: Unsigned, number: u32, out: &mut Vec<u8>) {
    match kind {
        Unsigned::Short => out.push(5 << 5 | 2),
        Unsigned::Usual => out.push(6 << 5 | 4),
        // The extended type 9.
        Unsigned::Long => out.extend([4, 2]),
    }
    let bytes = number.to_be_bytes();
    let skipped = if matches!(kind, Unsigned::Short) { 2 } else { 0 };
    out.extend(bytes.iter().skip(skipped));
}
