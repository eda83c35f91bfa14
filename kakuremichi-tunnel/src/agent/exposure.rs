//! The services that the program asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kakuremichi_core::{
    id::TargetId,
    model::Transport,
    name::Label,
    plan::{AgentPlan, AgentService},
};
use kakuremichi_proto::{
    declare::{Declaration, DeclaredKind},
    message::MAX_DECLARATIONS,
    report::Refusal,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    listener::{BACKLOG, Handle, Leased, View},
    visitor::{VisitorSession, VisitorStream},
};
use crate::{
    error::{CloseReason, ExposeError},
    link::{Answers, Wishes},
};

/// What the caller of `expose` or `forward` waits for.
pub(super) type Answer = oneshot::Sender<Result<(Handle, Outlet), ExposeError>>;

/// Where visitors come out.
#[derive(Debug)]
pub(super) enum Outlet {
    Streams(mpsc::Receiver<VisitorStream>),
    Sessions(mpsc::Receiver<VisitorSession>),
}

/// Where they go in.
#[derive(Debug, Clone)]
pub(super) enum Door {
    Streams(mpsc::Sender<VisitorStream>),
    Sessions(mpsc::Sender<VisitorSession>),
}

/// All of them, by name.
#[derive(Debug, Default)]
pub(super) struct Exposures {
    entries: BTreeMap<Label, Exposure>,
    next_number: u64,
}

#[derive(Debug)]
struct Exposure {
    number: u64,
    declaration: Declaration,
    door: Door,
    view: watch::Sender<View>,
    /// Whoever waits to hear that it is published.
    waiting: Option<(Answer, Handle, Outlet)>,
}

/// Where the connections, or the sessions, for a target in this process go.
#[derive(Debug, Clone)]
pub(super) struct Inlet {
    pub(super) name: Label,
    pub(super) door: Door,
    view: watch::Sender<View>,
}

impl Inlet {
    /// Counts a connection that was refused because too many wait.
    pub(super) fn overflowed(&self) {
        self.view.send_modify(|view| view.overflowed += 1);
    }
}

/// Something that became known of a service.
#[derive(Debug)]
pub(super) enum News {
    Published(Label, Vec<String>),
    Refused(Label, Refusal),
}

impl Exposures {
    /// Takes a wish. Returns its number, and what tells by its end that nobody wants it any more.
    pub(super) fn add(&mut self, declaration: Declaration, answer: Answer) -> Option<(u64, Leased)> {
        let refusal = if self.entries.contains_key(&declaration.name) {
            ExposeError::Taken(declaration.name)
        } else if self.entries.len() >= MAX_DECLARATIONS {
            ExposeError::TooMany
        } else {
            let (door, receiver) = passage(declaration.kind.transport());
            let (view, viewed) = watch::channel(View::default());
            let (lease, leased) = oneshot::channel();
            let handle = Handle::new(&declaration, viewed, lease);
            self.next_number += 1;
            let exposure = Exposure {
                number: self.next_number,
                declaration,
                door,
                view,
                waiting: Some((answer, handle, receiver)),
            };
            self.entries.insert(exposure.declaration.name.clone(), exposure);
            return Some((self.next_number, leased));
        };
        // Whoever asked may be gone.
        let _ = answer.send(Err(refusal));
        None
    }

    /// Forgets the wish `number`. Returns whether it was there.
    pub(super) fn remove(&mut self, name: &Label, number: u64) -> bool {
        let there = self.entries.get(name).is_some_and(|entry| entry.number == number);
        if there {
            self.entries.remove(name);
        }
        there
    }

    /// Forgets wishes whose caller did not wait for the answer. Returns whether there were any.
    pub(super) fn forget_abandoned(&mut self) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| {
            let abandoned = entry
                .waiting
                .as_ref()
                .is_some_and(|(answer, ..)| answer.is_closed());
            !abandoned
        });
        self.entries.len() != before
    }

    /// What is asked of Control.
    pub(super) fn wishes(&self) -> Arc<Wishes> {
        let wish = |entry: &Exposure| (entry.number, entry.declaration.clone());
        Arc::new(
            self.entries
                .iter()
                .map(|(name, entry)| (name.clone(), wish(entry)))
                .collect(),
        )
    }

    /// Finds the plan's targets for what is served in this process, and, without Control, answers the wishes that the
    /// plan fulfils, which came from the disk. While there is a link, Control's own answer is waited for: what the plan
    /// has can be what an earlier process declared, and about to go.
    pub(super) fn bind(&mut self, plan: &AgentPlan, linked: bool) -> (BTreeMap<TargetId, Inlet>, Vec<News>) {
        let (mut inlets, mut news) = (BTreeMap::new(), Vec::new());
        for (name, entry) in &mut self.entries {
            let Some(service) = plan.services().find(|service| fits(service, &entry.declaration)) else {
                continue;
            };
            let targets = service
                .targets
                .iter()
                .filter(|target| target.address == entry.declaration.target.address);
            for target in targets {
                let inlet = Inlet {
                    name: name.clone(),
                    door: entry.door.clone(),
                    view: entry.view.clone(),
                };
                inlets.insert(target.id, inlet);
            }
            entry.view.send_if_modified(|view| {
                let changed = view.service != Some(service.id) || view.urls != service.urls;
                (view.service, view.urls) = (Some(service.id), service.urls.clone());
                changed
            });
            if !linked {
                news.extend(entry.publish(name));
            }
        }
        (inlets, news)
    }

    /// Takes Control's answers.
    pub(super) fn answered(&mut self, answers: &Answers) -> Vec<News> {
        let mut news = Vec::new();
        for (name, (number, answer)) in answers {
            let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.number == *number) else {
                continue;
            };
            match answer {
                Ok(service) => {
                    entry.view.send_if_modified(|view| {
                        let changed = view.service != Some(service.service) || view.urls != service.urls;
                        (view.service, view.urls) = (Some(service.service), service.urls.clone());
                        changed
                    });
                    news.extend(entry.publish(name));
                }
                Err(refusal) => {
                    if let Some(entry) = self.entries.remove(name) {
                        entry.end(
                            ExposeError::Refused(refusal.clone()),
                            CloseReason::Refused(refusal.clone()),
                        );
                    }
                    news.push(News::Refused(name.clone(), refusal.clone()));
                }
            }
        }
        news
    }

    /// Nobody will answer any more: what still waits is told so. What is served goes on. Returns whether
    /// anything waited.
    pub(super) fn give_up(&mut self, why: impl Fn() -> ExposeError) -> bool {
        let waiting: Vec<_> = self.pending().cloned().collect();
        for name in &waiting {
            if let Some((answer, ..)) = self.entries.remove(name).and_then(|entry| entry.waiting) {
                let _ = answer.send(Err(why()));
            }
        }
        !waiting.is_empty()
    }

    /// Ends everything.
    pub(super) fn close(&mut self, reason: &CloseReason) {
        for entry in std::mem::take(&mut self.entries).into_values() {
            entry.end(ExposeError::Closed(reason.clone()), reason.clone());
        }
    }

    /// The names of those that Control has not answered and the plan does not have.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Label> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.waiting.is_some())
            .map(|(name, _)| name)
    }
}

impl Exposure {
    fn publish(&mut self, name: &Label) -> Option<News> {
        let (answer, handle, receiver) = self.waiting.take()?;
        // When whoever asked is gone, the receiver is dropped here, and the service with it.
        let _ = answer.send(Ok((handle, receiver)));
        Some(News::Published(name.clone(), self.view.borrow().urls.clone()))
    }

    fn end(self, error: ExposeError, reason: CloseReason) {
        self.view.send_modify(|view| view.closed = Some(reason));
        if let Some((answer, ..)) = self.waiting {
            let _ = answer.send(Err(error));
        }
    }
}

fn passage(transport: Transport) -> (Door, Outlet) {
    match transport {
        Transport::Tcp => {
            let (door, outlet) = mpsc::channel(BACKLOG);
            (Door::Streams(door), Outlet::Streams(outlet))
        }
        Transport::Udp => {
            let (door, outlet) = mpsc::channel(BACKLOG);
            (Door::Sessions(door), Outlet::Sessions(outlet))
        }
    }
}

/// Whether a service of the plan is the one that was declared.
fn fits(service: &AgentService, declaration: &Declaration) -> bool {
    let published = match &declaration.kind {
        DeclaredKind::Http { hosts, .. } => {
            let planned: BTreeSet<_> = service.hosts.iter().collect();
            !hosts.is_empty() && planned == hosts.iter().collect()
        }
        DeclaredKind::Tcp { port } | DeclaredKind::Udp { port } => {
            service.port == Some(*port) && service.transport == declaration.kind.transport()
        }
    };
    published
        && service
            .targets
            .iter()
            .any(|target| target.address == declaration.target.address)
}
