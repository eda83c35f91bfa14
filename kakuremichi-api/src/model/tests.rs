//! Whether the types are what the API's document says.

use std::collections::BTreeSet;

use serde::de::{Deserialize, Deserializer, Error, Visitor, value};
use serde_json::Value;

use super::{credential::*, named::*, node::*, service::*};
use crate::resource::Resource;

const DOCUMENT: &str = include_str!("../../../kakuremichi-control/openapi.json");

/// Reads nothing, but hears which fields a type would read.
struct Fields<'a>(&'a mut BTreeSet<String>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
        Err(value::Error::custom("only structs are listened to"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, value::Error> {
        self.0.extend(fields.iter().map(|&field| field.to_owned()));
        Err(value::Error::custom("that was all"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<'de, T: Deserialize<'de>>() -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    let _ = T::deserialize(Fields(&mut fields));
    fields
}

#[track_caller]
fn is_as_described<T: for<'de> Deserialize<'de>>(schema: &str) {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let properties = &document["components"]["schemas"][schema]["properties"];
    let described: BTreeSet<_> = properties.as_object().expect(schema).keys().cloned().collect();
    assert_eq!(fields::<T>(), described, "{schema}");
}

fn resource<T: Resource>() {
    is_as_described::<T>(T::SCHEMA);
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let path = format!("/api/v1/{}/{{id}}", T::COLLECTION);
    assert!(document["paths"][&path]["get"].is_object(), "{path}");
}

#[test]
fn each_type_has_what_the_document_has() {
    resource::<Service>();
    resource::<Node>();
    resource::<Site>();
    resource::<Token>();
    resource::<ApiKey>();
    resource::<ServiceToken>();
    resource::<Group>();
    resource::<Organization>();
    is_as_described::<Http>("HttpView");
    is_as_described::<Route>("RouteView");
    is_as_described::<Tcp>("TcpView");
    is_as_described::<Udp>("UdpView");
    is_as_described::<Target>("TargetView");
    is_as_described::<Health>("HealthView");
    is_as_described::<Policy>("PolicyView");
    is_as_described::<Agent>("AgentView");
    is_as_described::<Gateway>("GatewayView");
    is_as_described::<Scope>("ScopeView");
}

#[track_caller]
fn is_accepted(draft: &impl serde::Serialize, schema: &str) {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let schema = &document["components"]["schemas"][schema];
    let draft = serde_json::to_value(draft).unwrap();
    let draft = draft.as_object().unwrap();
    for name in draft.keys() {
        assert!(schema["properties"][name].is_object(), "{name}");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(draft.contains_key(name.as_str().unwrap()), "{name}");
    }
}

#[test]
fn each_draft_has_what_control_accepts() {
    let target = Target::at_agent("home", "127.0.0.1:80");
    let http = Http::new(["a.example.net"], [Route::new([target.clone()])]);
    is_accepted(&ServiceDraft::http("a", http), "ServiceInput");
    is_accepted(&target, "TargetView");
    is_accepted(&TokenDraft::new("a", NodeRole::Agent), "TokenInput");
    let key = ApiKeyDraft {
        name: "a".to_owned(),
        permissions: Some(Vec::new()),
        expires_in: Some(1),
    };
    is_accepted(&key, "ApiKeyInput");
    is_accepted(&Named::new("a"), "GroupInput");
    is_accepted(&Named::new("a"), "OrganizationInput");
    is_accepted(&KeyRotation { overlap: Some(0) }, "RotationInput");
    is_accepted(&KeyRotation::default(), "RotationInput");
    let change = NodeChange {
        name: Some("a".to_owned()),
        labels: Some(Default::default()),
    };
    is_accepted(&change, "NodeInput");
    let token = ServiceTokenDraft {
        name: "a".to_owned(),
        expires_in: Some(1),
    };
    is_accepted(&token, "ServiceTokenInput");
    let change = ServiceTokenChange {
        name: Some("a".to_owned()),
        expires_in: Some(1),
    };
    is_accepted(&change, "ServiceTokenChangeInput");
    let site = SiteDraft {
        name: "a".to_owned(),
        wireguard_key: String::new(),
        networks: Vec::new(),
        endpoint: Some(String::new()),
    };
    is_accepted(&site, "SiteInput");
}
