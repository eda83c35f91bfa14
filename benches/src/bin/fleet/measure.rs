//! Many nodes at one Control: what they cost while nothing happens, how soon a change is with all whom it concerns,
//! and how soon all are back after they were cut off, or Control was started anew.

use std::{
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kakuremichi_benches::machine::{Trouble, cpu_seconds, print, resident_bytes};
use kakuremichi_core::{id::NodeId, model::Role};
use kakuremichi_proto::identity::TokenText;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    api::Api,
    control::Control,
    crowd::Crowd,
    figures::Times,
    link::Dialler,
    node::{Lanes, Node, Seen, Shared},
};

/// Agents of this process, whose plans are waited for; the others are in processes of their own.
const WATCHED: u32 = 100;
/// One service for so many agents is there before anything is measured.
const AGENTS_PER_SERVICE: u32 = 10;
/// API clients that make those services at once.
const WRITERS: u32 = 8;
/// The first port of the services that are there, and of those that come and go.
const PORT: u32 = 10_000;
const CHANGED_PORT: u32 = 60_000;
/// How often it is asked whether all are there.
const ASK: Duration = Duration::from_millis(50);
/// When they, or a plan, are given up.
const PATIENCE: Duration = Duration::from_secs(180);
/// The pause before Control is measured at rest.
const CALM: Duration = Duration::from_secs(5);
/// The pause between two requests of the client that looks whether Control is responsive.
const VISIT: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) agents: u32,
    pub(crate) gateways: u32,
    /// Services that are made and deleted while it is timed how soon all know.
    pub(crate) changes: u32,
    /// How long the fleet is watched while it does nothing.
    pub(crate) idle: Duration,
    /// The URL of an empty PostgreSQL database; a file without.
    pub(crate) database: Option<String>,
}

/// Measures it all, and prints each figure when it is there.
pub(crate) async fn measure(plan: &Plan) -> Result<(), Trouble> {
    let mut control = Control::start(plan.database.as_deref())?;
    sleep(CALM).await;
    let alone = resident_bytes(control.pid());
    let mut fleet = Fleet::start(plan, &control)?;
    let all = plan.agents + plan.gateways;
    let say =
        |what: &str, figure: &dyn Display| print(&format!("{} agents: {what}: {figure}\n", plan.agents));

    let begun = Moment::now(&control);
    fleet.all_there().await?;
    say("all have enrolled after", &begun.until(&control));
    let begun = Instant::now();
    let services = fleet.fill(plan.agents / AGENTS_PER_SERVICE).await?;
    let pace = f64::from(services) / begun.elapsed().as_secs_f64();
    say("services made", &format!("{services}, {pace:.0} a second"));

    fleet.tell_lanes().await?;
    sleep(CALM).await;
    let begun = Moment::now(&control);
    sleep(plan.idle).await;
    say("Control while idle", &begun.until(&control));
    let resident = resident_bytes(control.pid());
    let each = (resident - alone) / 1024.0 / f64::from(all);
    let resident = resident / 1_048_576.0;
    say(
        "resident for each node",
        &format!("{each:.1} KiB (of {resident:.0} MiB)"),
    );

    let changed = fleet.changes(plan.changes).await?;
    say("a change answered", &changed.answered);
    say(
        "a change acknowledged by all whom it concerns",
        &changed.acknowledged,
    );
    say("processor time for a change", &changed.cost(plan.changes));

    let (begun, visitor) = (Moment::now(&control), fleet.visit());
    fleet.cut().await;
    fleet.all_there().await?;
    say("all cut off, and back after", &begun.until(&control));
    say("REST meanwhile", &visitor.finish().await);

    sleep(CALM).await;
    control.restart()?;
    let (begun, visitor) = (Moment::now(&control), fleet.visit());
    fleet.all_there().await?;
    say(
        "Control killed and started, all back after",
        &begun.until(&control),
    );
    say("REST meanwhile", &visitor.finish().await);
    Ok(())
}

/// All nodes, and the API of their Control.
struct Fleet {
    crowd: Crowd,
    shared: Arc<Shared>,
    cut: watch::Sender<u64>,
    lanes: watch::Sender<Lanes>,
    gateways: Vec<Arc<Seen>>,
    agents: Vec<Arc<Seen>>,
    tasks: Vec<JoinHandle<()>>,
    dialler: Dialler,
    key: String,
    pid: u32,
    count: usize,
}

impl Fleet {
    fn start(plan: &Plan, control: &Control) -> Result<Self, Trouble> {
        let dialler = Dialler::new(control.address(), &control.authority())?;
        let (cut, cuts) = watch::channel(0);
        let shared = Arc::new(Shared {
            dialler: dialler.clone(),
            online: AtomicUsize::new(0),
            planned: AtomicUsize::new(0),
            attempts: AtomicUsize::new(0),
            cut: cuts,
        });
        let lanes = watch::Sender::default();
        let mut fleet = Self {
            crowd: Crowd::start(control, "", 0, 0)?,
            shared,
            cut,
            lanes,
            gateways: Vec::new(),
            agents: Vec::new(),
            tasks: Vec::new(),
            dialler,
            key: control.key()?,
            pid: control.pid(),
            count: (plan.agents + plan.gateways) as usize,
        };
        // An enrolment whose answer was lost is repeated by the same identity, and takes no second use.
        let gateway = control.token("gateway", plan.gateways)?;
        let agent = control.token("agent", plan.agents)?;
        let watched = WATCHED.min(plan.agents);
        // Gateways are numbered behind all agents.
        fleet.gateways = fleet.join(Role::Gateway, &gateway, plan.agents..plan.agents + plan.gateways)?;
        fleet.agents = fleet.join(Role::Agent, &agent, 0..watched)?;
        fleet.crowd = Crowd::start(control, &agent, watched, plan.agents - watched)?;
        Ok(fleet)
    }

    fn join(
        &mut self,
        role: Role,
        token: &str,
        numbers: std::ops::Range<u32>,
    ) -> Result<Vec<Arc<Seen>>, Trouble> {
        let token: TokenText = token
            .parse()
            .map_err(|_| Trouble::Usage("Control made no token"))?;
        let join = |number| {
            let seen = Seen::new();
            let lanes = self.lanes.subscribe();
            let node = Node::new(number, role, &token, &self.shared, Arc::clone(&seen), lanes);
            let node = node.map_err(|_| Trouble::Usage("no node can be made"))?;
            self.tasks.push(tokio::spawn(node.live()));
            Ok(seen)
        };
        numbers.map(join).collect()
    }

    fn api(&self) -> Api {
        Api::new(self.dialler.clone(), self.key.clone())
    }

    /// Waits until every node was let in and has acknowledged a plan, or was told that it has the newest.
    async fn all_there(&self) -> Result<(), Trouble> {
        let begun = Instant::now();
        loop {
            let crowd = self.crowd.counts();
            if self.shared.online.load(Ordering::Relaxed) + crowd.online == self.count {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                print(&format!(
                    "of {} are there: {crowd:?} and {:?}\n",
                    self.count, self.shared.online
                ));
                return Err(Trouble::Late {
                    what: "the fleet".to_owned(),
                });
            }
            sleep(ASK).await;
        }
    }

    /// Makes services, several clients at once.
    async fn fill(&self, count: u32) -> Result<u32, Trouble> {
        let share = |first: u32| {
            let (mut api, agents) = (self.api(), self.agents.len() as u32);
            tokio::spawn(async move {
                for number in (first..count).step_by(WRITERS as usize) {
                    let body = service(&format!("there-{number}"), PORT + number, number % agents);
                    api.post("/api/v1/services", &body).await?;
                }
                Ok::<_, Trouble>(())
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(share).collect();
        for writer in writers {
            writer
                .await
                .map_err(|_| Trouble::Usage("a client broke down"))??;
        }
        Ok(count)
    }

    /// From now on gateways tell of a lane to every agent.
    async fn tell_lanes(&self) -> Result<(), Trouble> {
        let mut api = self.api();
        let (mut lanes, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("/api/v1/nodes?limit=500{cursor}")).await?;
            let items = page.get("items").and_then(Value::as_array);
            let ids = items
                .into_iter()
                .flatten()
                .filter_map(|item| item.get("id")?.as_str());
            lanes.extend(ids.filter_map(|id| id.parse::<NodeId>().ok()));
            match page.get("next_cursor").and_then(Value::as_str) {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        lanes.retain(|id| matches!(id, NodeId::Agent(_)));
        self.lanes.send_replace(Arc::new(lanes));
        Ok(())
    }

    /// Makes a service and deletes it, again and again, and waits each time until the agent and all gateways have
    /// acknowledged what that makes of their plans.
    async fn changes(&self, count: u32) -> Result<Changes, Trouble> {
        let mut api = self.api();
        let used = cpu_seconds(self.pid);
        let mut changes = Changes {
            answered: Times::default(),
            acknowledged: Times::default(),
            used: 0.0,
        };
        let mut made = None;
        for number in 0..count {
            let agent = (number / 2) as usize % self.agents.len();
            let concerned = || self.gateways.iter().chain(self.agents.get(agent));
            let waiting = concerned().map(|seen| (*seen.plans.borrow(), seen.plans.subscribe()));
            let waiting: Vec<_> = waiting.collect();
            let begun = Instant::now();
            match made.take() {
                None => {
                    let body = service("changing", CHANGED_PORT, agent as u32);
                    let answer = api.post("/api/v1/services", &body).await?;
                    made = answer.get("id").and_then(Value::as_str).map(str::to_owned);
                }
                Some(id) => api.delete(&format!("/api/v1/services/{id}")).await?,
            }
            changes.answered.add(begun.elapsed());
            for (before, mut plans) in waiting {
                let newer = plans.wait_for(|plans| *plans > before);
                if timeout(PATIENCE, newer).await.is_err() {
                    return Err(Trouble::Late {
                        what: "a plan".to_owned(),
                    });
                }
            }
            changes.acknowledged.add(begun.elapsed());
        }
        changes.used = cpu_seconds(self.pid) - used;
        Ok(changes)
    }

    /// All nodes drop their connections.
    async fn cut(&mut self) {
        self.cut.send_modify(|cuts| *cuts += 1);
        self.crowd.cut();
        // Nobody is taken for there before it has noticed.
        while self.shared.online.load(Ordering::Relaxed) + self.crowd.counts().online == self.count {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Begins to ask the API for something small, again and again.
    fn visit(&self) -> Visitor {
        let (mut api, (end, ended)) = (self.api(), watch::channel(false));
        let task = tokio::spawn(async move {
            let (mut times, mut failed) = (Times::default(), 0);
            while !*ended.borrow() {
                let begun = Instant::now();
                match api.get("/api/v1/nodes?limit=10").await {
                    Ok(_) => times.add(begun.elapsed()),
                    Err(_) => failed += 1,
                }
                sleep(VISIT).await;
            }
            format!("{times}; {failed} failed")
        });
        Visitor { end, task }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A client that asks again and again.
struct Visitor {
    end: watch::Sender<bool>,
    task: JoinHandle<String>,
}

impl Visitor {
    async fn finish(self) -> String {
        self.end.send_replace(true);
        self.task.await.unwrap_or_else(|_| "it broke down".to_owned())
    }
}

/// How long changes took.
struct Changes {
    /// Until the API answered.
    answered: Times,
    /// Until the last node had acknowledged.
    acknowledged: Times,
    used: f64,
}

impl Changes {
    fn cost(&self, count: u32) -> String {
        format!("{:.1} ms", self.used * 1000.0 / f64::from(count.max(1)))
    }
}

fn service(name: &str, port: u32, agent: u32) -> Value {
    json!({
        "name": name,
        "tcp": {
            "port": port,
            "targets": [{ "agent": format!("agent-{agent}"), "address": "127.0.0.1:8080" }],
        },
        "policy": { "access": "public" },
    })
}

/// A moment, and what Control's process had used by then.
struct Moment {
    at: Instant,
    used: f64,
}

impl Moment {
    fn now(control: &Control) -> Self {
        Self {
            at: Instant::now(),
            used: cpu_seconds(control.pid()),
        }
    }

    fn until(&self, control: &Control) -> String {
        let (time, used) = (
            self.at.elapsed().as_secs_f64(),
            cpu_seconds(control.pid()) - self.used,
        );
        format!(
            "{time:.1} s, {used:.1} s of processor time ({:.1} % of a core)",
            used / time * 100.0
        )
    }
}
