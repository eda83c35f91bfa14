//! Whether the types are what the API's document says.

use std::collections::BTreeSet;

use serde::de::{Deserialize, Deserializer, Error, Visitor, value};
use serde_json::Value;

use super::{condition::*, credential::*, named::*, node::*, policy::*, service::*};
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

/// The same of what keeps fields that it does not know.
#[track_caller]
fn is_written_as_described(full: &impl serde::Serialize, schema: &str) {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let properties = document["components"]["schemas"][schema]["properties"].clone();
    let written = serde_json::to_value(full).unwrap();
    let names = |object: &Value| {
        object
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&written), names(&properties), "{schema}");
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
    resource::<SharedPolicy>();
    is_as_described::<Http>("HttpView");
    is_as_described::<Route>("RouteView");
    is_as_described::<Tcp>("TcpView");
    is_as_described::<Udp>("UdpView");
    is_as_described::<Target>("TargetView");
    is_as_described::<Health>("HealthView");
    is_written_as_described(&Policy::public(), "PolicyView");
    let tried = Rule {
        dry_run: true,
        ..Rule::new("a", Condition::Asn(1), Effect::Deny)
    };
    is_written_as_described(&tried, "RuleView");
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
    let policy = SharedPolicyDraft {
        access: Some(Access::Public),
        ..SharedPolicyDraft::default()
    };
    is_accepted(&policy, "SharedPolicyInput");
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

/// The names of what an enumeration of the document can be.
fn described(schema: &str) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let schema = &document["components"]["schemas"][schema];
    let one_of = schema["oneOf"].as_array().cloned();
    let kinds = one_of.unwrap_or_else(|| vec![schema.clone()]);
    let names = |kind: &Value| match kind["required"].as_array() {
        Some(required) => required.clone(),
        None => kind["enum"].as_array().unwrap().clone(),
    };
    let names = kinds.iter().flat_map(names);
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// Whether `samples`, one of each kind, are all that the document has, and come back as they were.
#[track_caller]
fn is_one_of<T>(schema: &str, samples: &[T])
where
    T: serde::Serialize + for<'de> Deserialize<'de> + std::fmt::Debug + PartialEq,
{
    let mut names = BTreeSet::new();
    for sample in samples {
        let json = serde_json::to_value(sample).unwrap();
        let name = match &json {
            Value::String(name) => name,
            json => json.as_object().unwrap().keys().next().unwrap(),
        };
        names.insert(name.clone());
        assert_eq!(serde_json::from_value::<T>(json).unwrap(), *sample);
    }
    assert_eq!(names, described(schema), "{schema}");
}

fn conditions() -> Vec<Condition> {
    let text = || "x".to_owned();
    let present = HeaderTest::Present;
    vec![
        Condition::All(vec![Condition::Asn(1)]),
        Condition::Any(Vec::new()),
        !Condition::Asn(1),
        Condition::Path("/a".to_owned()),
        Condition::Method(text()),
        Condition::Source("192.0.2.0/24".to_owned()),
        Condition::Subject(text()),
        Condition::Header(Header {
            name: text(),
            is: present,
        }),
        Condition::Country("DE".to_owned()),
        Condition::Asn(1),
        Condition::Time(TimeWindow::daily("09:00", "18:00")),
        Condition::User(Principal {
            authority: text(),
            subject: text(),
        }),
        Condition::Role(text()),
        Condition::Group(text()),
        Condition::Strength(Strength::TwoFactors),
    ]
}

#[test]
fn policies_are_what_the_document_says() {
    is_one_of("ConditionView", &conditions());
    let tests = [
        HeaderTest::Present,
        HeaderTest::Equal(String::new()),
        HeaderTest::Prefix(String::new()),
        HeaderTest::Contains(String::new()),
    ];
    is_one_of("HeaderTestView", &tests);
    is_one_of("WeekdayView", &Weekday::ALL);
    let strengths = [
        Strength::OneFactor,
        Strength::TwoFactors,
        Strength::PhishingResistant,
    ];
    is_one_of("StrengthView", &strengths);
    is_one_of("EffectView", &[Effect::Allow, Effect::Deny, Effect::Continue]);
    let methods = vec![
        Method::Basic(Basic {
            users: vec![BasicUser::kept("ann")],
        }),
        Method::SignedIn,
        Method::SignedInAs(Requirement {
            max_age: Some(600),
            ..Requirement::default()
        }),
        Method::ServiceToken(ServiceTokens::default()),
    ];
    is_one_of("MethodView", &methods);
    let accesses = [
        Access::Deny,
        Access::Public,
        Access::AnyOf(methods.clone()),
        Access::AllOf(methods),
    ];
    is_one_of("AccessView", &accesses);
    is_as_described::<Header>("HeaderView");
    is_as_described::<TimeWindow>("TimeView");
    is_as_described::<Principal>("PrincipalView");
    is_as_described::<Requirement>("RequirementView");
    is_as_described::<Basic>("BasicView");
    is_as_described::<BasicUser>("UserView");
    is_as_described::<ServiceTokens>("ServiceTokensView");
}

#[test]
fn the_forms_of_identity_are_what_the_document_says() {
    let forms = [
        IdentityForm::None,
        IdentityForm::Headers,
        IdentityForm::Assertion,
        IdentityForm::Both,
    ];
    is_one_of("IdentityFormView", &forms);
}

#[test]
fn what_a_newer_control_has_in_a_policy_comes_back_as_it_was() {
    let newer = serde_json::json!({
        "rules": [
            {"name": "a", "when": {"not": {"moon": {"phase": "full"}}}, "effect": "audit"},
            {"name": "b", "when": {"strength": "in_person"}, "effect": "deny", "dry_run": true},
        ],
        "access": {"any_of": ["palm", {"signed_in_as": {"strength": "two_factors"}}]},
    });
    let policy: Policy = serde_json::from_value(newer.clone()).unwrap();
    assert!(matches!(policy.rules[1].effect, Effect::Deny) && matches!(policy.access, Access::AnyOf(_)));
    assert_eq!(serde_json::to_value(&policy).unwrap(), newer);
    assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), Policy::default());
    // A field that is left out would let more people past.
    let fields = serde_json::json!({
        "rules": [
            {"name": "a", "when": {"user": {"authority": "x", "subject": "y", "since": 1}}, "effect": "deny", "until": 7},
            {"name": "b", "when": {"header": {"name": "x", "is": "present", "twice": true}}, "effect": "deny"},
            {"name": "c", "when": {"time": {"from": "09:00", "to": "18:00", "zone": "x"}}, "effect": "deny"},
        ],
        "access": {"all_of": [
            {"signed_in_as": {"strength": "two_factors", "device": "managed"}},
            {"service_token": {"labels": ["ci"]}},
            {"basic": {"users": [{"name": "ann", "until": 7}]}},
        ]},
        "quota": 1,
    });
    let policy: Policy = serde_json::from_value(fields.clone()).unwrap();
    assert_eq!(serde_json::to_value(&policy).unwrap(), fields);
}

#[test]
fn a_password_is_not_printed() {
    let printed = format!("{:?}", BasicUser::new("ann", "open sesame"));
    assert!(printed.contains("ann") && !printed.contains("sesame"));
}
