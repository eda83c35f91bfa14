//! What a gateway does on each of its shards.
//!
//! Visitors of HTTP are served by the shard that accepted them; agents are heard by the one that owns
//! them. The [conductor](super::conductor) runs on the first shard, publishes what all of them share,
//! and has the others follow.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use kakuremichi_core::plan::GatewayPlan;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    drain::Drain,
    feeds::Feeds,
    ingress::{
        Bound,
        https::{Door, Spoken, listen},
    },
    lanes::Lanes,
    serving::Serving,
    siblings::Relays,
    status::GatewayStatus,
};
use crate::engine::LocalShard;

/// Answers that wait for the conductor; who has more to say waits.
const ANSWERS: usize = 64;

/// A shard's part of a gateway.
pub(super) struct Member {
    listeners: JoinSet<()>,
    feeds: Rc<RefCell<Feeds>>,
    relays: Rc<Relays>,
    serving: Rc<Serving<Lanes>>,
}

/// What the conductor wants of the other shards. The newest order counts.
#[derive(Debug, Clone)]
enum Order {
    /// Follow the plan that was published with this number.
    Follow(u64, Arc<GatewayPlan>),
    /// Cut what is open, and hear agents no more.
    Close,
}

/// What they answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The plan of this number is followed.
    Follows(u64),
    /// Nothing of visitors is open any more.
    Drained,
}

impl Member {
    /// Begins to serve on a shard.
    pub(super) fn new(
        local: &LocalShard,
        door: &Rc<Door<Lanes>>,
        sockets: impl IntoIterator<Item = (Bound, Spoken)>,
    ) -> Self {
        let serving = Rc::clone(&door.serving);
        let feeds: Rc<RefCell<Feeds>> = Rc::default();
        let connect = serving.timeouts.connect;
        let idle = serving.timeouts.udp_idle;
        let relays = Relays::new(serving.upstream.clone(), door.drain.clone(), (connect, idle));
        let (heard, own, health) = (Rc::clone(&feeds), local.clone(), Rc::clone(&serving));
        let passed = Rc::clone(&relays);
        local.on_incoming(move |flow| {
            if let Some(flow) = passed.take(flow, &own) {
                heard.borrow_mut().take(flow, &own, &health);
            }
        });
        let (passed, own) = (Rc::clone(&relays), local.clone());
        local.on_session(move |session| passed.take_session(session, &own));
        local.spawn(Rc::clone(&serving.draining).follow());
        local.spawn(Serving::pass_time(Rc::downgrade(&serving)));
        let mut listeners = JoinSet::new();
        listeners.spawn_local(Rc::clone(&relays).drained());
        for (bound, spoken) in sockets {
            match TcpListener::from_std(bound.listener) {
                Ok(listener) => {
                    listeners.spawn_local(listen(listener, spoken, Rc::clone(door)));
                }
                Err(error) => tracing::error!(address = %bound.address, %error, "cannot listen"),
            }
        }
        Self {
            listeners,
            feeds,
            relays,
            serving,
        }
    }

    /// Hears the agents and siblings of a plan, which has been published, and nobody else.
    pub(super) fn hear(&self, plan: &GatewayPlan) {
        self.feeds.borrow_mut().apply(plan);
        self.relays.follow();
    }

    /// The listeners, and who waits for what siblings opened; each ends when all that came through it has.
    pub(super) fn listeners(&mut self) -> JoinSet<()> {
        std::mem::take(&mut self.listeners)
    }

    /// Cuts what is open, and hears agents no more.
    pub(super) fn close(&mut self) {
        self.listeners.abort_all();
        self.feeds.borrow_mut().close();
        self.relays.close();
    }

    async fn drained(&mut self) {
        while self.listeners.join_next().await.is_some() {}
    }
}

/// The conductor's end toward the other shards.
#[derive(Debug)]
pub(super) struct Others {
    orders: watch::Sender<Order>,
    answers: mpsc::Receiver<Answer>,
    count: usize,
    number: u64,
    /// How many have not followed yet, and how many have not drained.
    following: usize,
    draining: usize,
}

/// Another shard's end toward the conductor.
#[derive(Debug)]
pub(super) struct Follower {
    orders: watch::Receiver<Order>,
    answers: mpsc::Sender<Answer>,
    /// The status ends when all shards have: nobody is to think before that a gateway is gone.
    _status: watch::Sender<Arc<GatewayStatus>>,
}

/// Connects the conductor with so many other shards.
pub(super) fn others(count: usize, status: &watch::Sender<Arc<GatewayStatus>>) -> (Others, Vec<Follower>) {
    let (orders, ordered) = watch::channel(Order::Follow(0, Arc::default()));
    let (answer, answers) = mpsc::channel(ANSWERS);
    let others = Others {
        orders,
        answers,
        count,
        number: 0,
        following: 0,
        draining: count,
    };
    let follower = |_| Follower {
        orders: ordered.clone(),
        answers: answer.clone(),
        _status: status.clone(),
    };
    (others, (0..count).map(follower).collect())
}

impl Others {
    /// Has all follow a plan.
    pub(super) fn follow(&mut self, plan: &Arc<GatewayPlan>) {
        self.number += 1;
        self.following = self.count;
        self.orders
            .send_replace(Order::Follow(self.number, Arc::clone(plan)));
    }

    /// Whether all follow the newest plan.
    pub(super) const fn all_follow(&self) -> bool {
        self.following == 0
    }

    /// Takes an answer. Pends when there will be none.
    pub(super) async fn answered(&mut self) {
        match self.answers.recv().await {
            Some(Answer::Follows(number)) if number == self.number => self.following -= 1,
            Some(Answer::Follows(_)) => {}
            Some(Answer::Drained) => self.draining -= 1,
            None => std::future::pending().await,
        }
    }

    /// Whether nothing of visitors is open on any of them, once the drain has begun.
    pub(super) const fn have_drained(&self) -> bool {
        self.draining == 0
    }

    /// Has all cut what is open, and hear agents no more.
    pub(super) fn close(&self) {
        self.orders.send_replace(Order::Close);
    }
}

impl Follower {
    /// Does what the conductor wants, for as long as the shard runs.
    pub(super) async fn run(mut self, mut member: Member, mut drain: Drain) {
        let (mut draining, mut drained) = (false, false);
        loop {
            let answer = tokio::select! {
                ordered = self.orders.changed() => match ordered {
                    Ok(()) => self.obey(&mut member),
                    // The conductor is gone, and the shard will be.
                    Err(_) => std::future::pending().await,
                },
                () = drain.begun(), if !draining => {
                    draining = true;
                    None
                }
                () = member.drained(), if draining && !drained => {
                    drained = true;
                    Some(Answer::Drained)
                }
            };
            if let Some(answer) = answer {
                // An error means that nobody wants to know.
                let _ = self.answers.send(answer).await;
            }
        }
    }

    fn obey(&mut self, member: &mut Member) -> Option<Answer> {
        match &*self.orders.borrow_and_update() {
            Order::Follow(number, plan) => {
                member.hear(plan);
                // What the shards share of it has been published.
                member.serving.follow();
                Some(Answer::Follows(*number))
            }
            Order::Close => {
                member.close();
                None
            }
        }
    }
}
