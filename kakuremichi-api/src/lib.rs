//! A typed client of Control's REST API.
//!
//! It knows what programs work with: services, shared policies, nodes, sites, enrolment tokens, API keys, groups and organizations, each as a
//! [`Resource`]. Everything else that the API has is reached by [`Api::send`], with JSON.
//!
//! ```no_run
//! use kakuremichi_api::{Api, Http, Policy, Route, Secret, Service, ServiceDraft, Target};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let api = Api::builder("https://control.example.net:7443", Secret::new("kkm_api_…".to_owned())).build()?;
//! let target = Target::at_agent("home", "127.0.0.1:8080");
//! let http = Http::new(["billing.example.net"], [Route::new([target])]);
//! let service = api.create::<Service>(&ServiceDraft::http("billing", http)).await?;
//! println!("{:?}", service.value.urls);
//! let mut draft = service.value.draft();
//! draft.policy = Policy::public();
//! // Refused if somebody else changed it meanwhile.
//! api.replace::<Service>(service.value.id, &draft, Some(&service.tag)).await?;
//! # Ok(())
//! # }
//! ```

mod client;
mod error;
mod exchange;
mod model;
mod resource;

pub use client::{Api, ApiBuilder, BuildError};
pub use error::{ApiError, FieldProblem, Problem};
pub use exchange::{ATTEMPTS, MAX_ANSWER, PATIENCE};
/// What keys are given as: it is not printed, and wiped.
pub use kakuremichi_core::secret::Secret;
pub use model::{
    condition::{Condition, Header, HeaderTest, Principal, Strength, TimeWindow, Weekday},
    credential::{
        ApiKey, ApiKeyDraft, Approval, NewApiKey, NewServiceToken, NewToken, Scope, ServiceToken,
        ServiceTokenChange, ServiceTokenDraft, Token, TokenDraft,
    },
    named::{Group, Named, Organization},
    node::{Agent, Gateway, KeyRotation, Node, NodeChange, NodeRole, NodeState, Site, SiteDraft},
    policy::{
        Access, Basic, BasicUser, Effect, Method, Policy, Requirement, Rule, ServiceTokens, SharedPolicy,
        SharedPolicyDraft,
    },
    service::{
        Health, Http, IdentityForm, Lifetime, Route, Service, ServiceDraft, Target, TargetTls, Tcp, Udp,
    },
};
pub use resource::{Create, Delete, Listing, Replace, Resource, Revoke, Tagged, Update};
