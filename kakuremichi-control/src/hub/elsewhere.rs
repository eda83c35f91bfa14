//! What other instances know of nodes that are connected to them: they are asked, and answer from their memory.
//!
//! Nothing is told before somebody asks, since what nodes say of their lanes changes all the time, and is looked at
//! seldom.

mod said;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use kakuremichi_core::{
    id::{AgentId, NodeId, OrganizationId},
    store::{Question, StoreError},
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use self::said::Said;
use super::{Hub, Presence};
use crate::service::{UseCaseError, random};

/// How long it is waited for answers. An instance that does not answer is taken to know nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether there are answers.
const LOOK: Duration = Duration::from_millis(50);
/// The pause after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Asked {
    /// What is known of a node, if it is connected there: answered with [`Said`], or not at all.
    Node(String),
    /// Which of these agents of an organization a gateway carries to that is connected there.
    Carried(Vec<(String, String)>),
}

impl Hub {
    /// Answers what other instances ask. Runs for ever.
    pub(crate) async fn answer_instances(self: Arc<Self>) {
        loop {
            if let Err(error) = self.answer_all().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "other instances cannot be answered"
                );
                sleep(RETRY).await;
            }
        }
    }

    async fn answer_all(&self) -> Result<(), StoreError> {
        let (store, instance) = (self.use_cases.store(), self.sightings.instance());
        for question in store.questions(instance).await? {
            // What a newer version asks is not understood, and answered with nothing.
            let answer = match serde_json::from_str(&question.text) {
                Ok(asked) => self.answer_to(&asked),
                Err(_) => String::new(),
            };
            store.answer(instance, question.id, &answer).await?;
        }
        Ok(())
    }

    fn answer_to(&self, asked: &Asked) -> String {
        let answer = match asked {
            Asked::Node(node) => match node.parse::<NodeId>() {
                Ok(node) if self.registry.is_connected(node) => {
                    serde_json::to_string(&Said::of(node, &self.registry.presence(node)))
                }
                Ok(_) | Err(_) => Ok(String::new()),
            },
            Asked::Carried(agents) => {
                let carried = self.registry.carried(read(agents));
                serde_json::to_string(&written(&carried))
            }
        };
        // Texts and numbers only: nothing in it can fail.
        answer.unwrap_or_default()
    }

    /// What is known of a node's connection, at whichever instance, and whether it is connected to another one. Nobody is
    /// asked about a node that is connected nowhere.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn presence_anywhere(&self, node: NodeId) -> Result<(Presence, bool), UseCaseError> {
        let here = self.registry.presence(node);
        let seen = self.seen(&[node]).await?.remove(&node).unwrap_or_default();
        if here.connected.is_some() || seen.connected.is_none() {
            return Ok((here, false));
        }
        let read = |text: &String| serde_json::from_str::<Said>(text).ok();
        let known = |answers: &[String]| answers.iter().find_map(read);
        let answers = self
            .ask(&Asked::Node(node.to_string()), |answers| known(answers).is_some())
            .await?;
        // Whoever does not answer knows nothing but that, which it told before.
        let told = Presence {
            connected: seen.connected,
            ..here
        };
        Ok((known(&answers).map_or(told, Said::presence), true))
    }

    /// Those of these agents that a gateway carries to which is connected to another instance.
    pub(super) async fn carried_elsewhere(
        &self,
        agents: &BTreeSet<(OrganizationId, AgentId)>,
    ) -> Result<BTreeSet<(OrganizationId, AgentId)>, UseCaseError> {
        if agents.is_empty() {
            return Ok(BTreeSet::new());
        }
        let answers = self.ask(&Asked::Carried(written(agents)), |_| false).await?;
        let pairs = answers.iter().filter_map(|text| serde_json::from_str(text).ok());
        let pairs: Vec<(String, String)> = pairs.flat_map(|pairs: Vec<_>| pairs).collect();
        Ok(read(&pairs).filter(|pair| agents.contains(pair)).collect())
    }

    /// Asks, and waits until everybody has answered, or `enough` is known.
    async fn ask(
        &self,
        asked: &Asked,
        enough: impl Fn(&[String]) -> bool,
    ) -> Result<Vec<String>, UseCaseError> {
        let store = self.use_cases.store();
        let question = Question {
            id: random()?,
            text: serde_json::to_string(asked).unwrap_or_default(),
        };
        let others = store.ask(self.sightings.instance(), &question).await?;
        let asked = Instant::now();
        let mut answers = Vec::new();
        while answers.len() < others && !enough(&answers) && asked.elapsed() < PATIENCE {
            sleep(LOOK).await;
            answers = store.answers(question.id).await?;
        }
        Ok(answers)
    }
}

fn written(agents: &BTreeSet<(OrganizationId, AgentId)>) -> Vec<(String, String)> {
    agents
        .iter()
        .map(|(organization, agent)| (organization.to_string(), agent.to_string()))
        .collect()
}

fn read(pairs: &[(String, String)]) -> impl Iterator<Item = (OrganizationId, AgentId)> {
    pairs
        .iter()
        .filter_map(|(organization, agent)| Some((organization.parse().ok()?, agent.parse().ok()?)))
}
