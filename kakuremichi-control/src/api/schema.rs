//! Schemas of texts with a form of their own, as the OpenAPI document has them: what Control takes, and nothing else.

use std::borrow::Cow;

use kakuremichi_core::{
    model::{MAX_LABELS, Permission},
    store::MAX_PAGE,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, Object, ObjectBuilder, OneOfBuilder, RefOr, Schema, Type},
};

use super::{filter::MAX_SEARCH, text::EVERYTHING};

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $pattern:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name;

        impl $name {
            fn of_this_form() -> Object {
                text().pattern(Some($pattern)).build()
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                Self::of_this_form().into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    )*};
}

macro_rules! identifier {
    ($prefix:literal) => {
        // 128 bits are 25 characters of base 32, and three bits in another one.
        concat!("^", $prefix, "_[a-z2-7]{25}[aeimquy4]$")
    };
}

texts! {
    /// A name that a person gives to a thing.
    Name = "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$";
    /// The identifier of an account.
    UserId = identifier!("usr");
    /// The identifier of a role.
    RoleId = identifier!("rol");
    /// The identifier of a group.
    GroupId = identifier!("grp");
    /// The identifier of an agent.
    AgentId = identifier!("agt");
    /// The identifier of a site.
    SiteId = identifier!("sit");
    /// The identifier of a shared policy.
    PolicyId = identifier!("pol");
    /// The identifier of a service.
    ServiceId = identifier!("svc");
    /// The identifier of anything.
    AnyId = identifier!("(agt|chn|grp|gtw|idp|inv|key|mem|org|pol|rol|ses|sit|stk|svc|tok|usr)");
    /// A public key: 32 bytes in base 64.
    PublicKey = "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$";
    /// An event, or what several begin with.
    EventName = r"^[a-z_-][a-z._-]{0,62}\.[a-z._-]{0,62}$";
    /// A name for a request.
    RequestName = r"^[!-~]([\t -~]{0,253}[!-~])?$";
    /// The key of a label.
    LabelKey = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$";
    /// The value of a label.
    LabelValue = "^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$";
}

/// What an `ETag` said, or whatever it says.
#[derive(Debug)]
pub(crate) struct EntityTag;

impl PartialSchema for EntityTag {
    fn schema() -> RefOr<Schema> {
        let any = text().enum_values(Some(["*"]));
        let tag = text().pattern(Some(r#"^"[0-9]{1,19}(\.[0-9a-f]{16})?"$"#));
        let schema = OneOfBuilder::new().item(any.build()).item(tag.build());
        Schema::from(schema.build()).into()
    }
}

impl ToSchema for EntityTag {}

/// A text that is searched for.
#[derive(Debug)]
pub(crate) struct Search;

impl PartialSchema for Search {
    fn schema() -> RefOr<Schema> {
        let schema = text().min_length(Some(1)).max_length(Some(MAX_SEARCH));
        schema.build().into()
    }
}

impl ToSchema for Search {}

/// How many items a part of a list has.
#[derive(Debug)]
pub(crate) struct PartSize;

impl PartialSchema for PartSize {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new().schema_type(Type::Integer);
        let schema = schema.minimum(Some(1_usize)).maximum(Some(MAX_PAGE));
        schema.build().into()
    }
}

impl ToSchema for PartSize {}

/// Labels, as an object of texts.
#[derive(Debug)]
pub(crate) struct Labels;

impl PartialSchema for Labels {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new()
            .property_names(Some(LabelKey::of_this_form()))
            .additional_properties(Some(LabelValue::schema()))
            .max_properties(Some(MAX_LABELS));
        schema.build().into()
    }
}

impl ToSchema for Labels {}

/// Names of permissions, or the one text that stands for everything.
#[derive(Debug)]
pub(crate) struct Permissions;

impl PartialSchema for Permissions {
    fn schema() -> RefOr<Schema> {
        let names = Permission::ALL.iter().map(|permission| permission.as_str());
        let some = ArrayBuilder::new().items(text().enum_values(Some(names)).build());
        let all = ArrayBuilder::new()
            .items(text().enum_values(Some([EVERYTHING])).build())
            .min_items(Some(1))
            .max_items(Some(1));
        let schema = OneOfBuilder::new().item(some.build()).item(all.build());
        Schema::from(schema.build()).into()
    }
}

impl ToSchema for Permissions {}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}
